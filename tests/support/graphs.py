"""What artists put around a MODEL: pieces of graphs made of the host's own nodes, to be tried on any model.

Every piece takes a `Wires` and gives back another; `sample` ends a graph. The same pieces make the parity tests
and the random graphs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

SIZE = 64
"""Side of the pictures in pixels; latents are 8 x 8."""


@dataclass(frozen=True)
class Wires:
    """The ends of a graph's wires so far, and the names of files that fit the model. `widgets` are KSampler's."""

    host: Any
    model: Any
    positive: list
    negative: list
    latent: dict
    lora: str
    control_net: str
    widgets: dict = field(default_factory=dict)

    def call(self, node_id: str, **inputs):
        """The first output of a node."""
        return self.host.call(node_id, **inputs)[0]

    def on_model(self, node_id: str, **inputs) -> Wires:
        return replace(self, model=self.call(node_id, model=self.model, **inputs))

    def with_widgets(self, **widgets) -> Wires:
        return replace(self, widgets={**self.widgets, **widgets})


def empty_latent(host, batch: int = 1, width: int = SIZE, height: int = SIZE) -> dict:
    return host.call("EmptyLatentImage", width=width, height=height, batch_size=batch)[0]


def sample(w: Wires) -> Tensor:
    defaults = {"seed": 1, "steps": 2, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"}
    links = {"model": w.model, "positive": w.positive, "negative": w.negative, "latent_image": w.latent}
    return w.call("KSampler", **{**defaults, **w.widgets}, **links)["samples"]


# ------------------------------------------------------------------ nodes on the model
def freeu_v2(w: Wires) -> Wires:
    """Its patch knows the widths 1280 and 640 only, so the factors go through a patch of the same kind here."""
    model = w.call("FreeU_V2", model=w.model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)

    def backbone_in_place(h, skip, options):
        h[:, : h.shape[1] // 2] *= 1.0 + 0.3 * h.mean((1, 2, 3), keepdim=True).sigmoid()
        return h, skip.mul_(0.9)

    model.set_model_output_block_patch(backbone_in_place)
    return replace(w, model=model)


def perturbed_attention(w: Wires) -> Wires:
    return w.on_model("PerturbedAttentionGuidance", scale=2.0)


def self_attention_guidance(w: Wires) -> Wires:
    w = replace(w, latent=empty_latent(w.host, 1, 128, 128))  # it cannot do with a middle block of one token
    return w.on_model("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0)


def ip_adapter(w: Wires) -> Wires:
    """As IPAdapter does: attention on another context, added to what attention on the text gives."""
    picture = torch.randn(1, 4, 1, generator=torch.Generator().manual_seed(4))

    def replaced(q, k, v, extra):
        from comfy.ldm.modules import attention

        def attend(k, v):
            return attention.optimized_attention(q, k, v, extra["n_heads"])

        prompted = (
            torch.tensor(extra["cond_or_uncond"])
            .eq(0)
            .float()
            .repeat_interleave(len(q) // len(extra["cond_or_uncond"]))
        )
        own = picture.expand(len(q), 4, q.shape[-1])
        return attend(k, v) + 0.7 * prompted[:, None, None] * attend(own, own.flip(1))

    model = w.model.clone()
    for block in [("input", 1), ("input", 4), ("middle", 0), ("output", 3), ("output", 8)]:
        model.set_model_attn2_replace(replaced, *block)
    return replace(w, model=model)


def deep_shrink(w: Wires) -> Wires:
    return w.on_model(
        "PatchModelAddDownscale",
        downscale_method="bicubic",
        upscale_method="bicubic",
        block_number=3,
        downscale_factor=2.0,
        start_percent=0.0,
        end_percent=0.7,
    )


def hypertile(w: Wires) -> Wires:
    return w.on_model("HyperTile", tile_size=32, swap_size=1, max_depth=0, scale_depth=False)


def rescaled_guidance(w: Wires) -> Wires:
    return w.on_model("RescaleCFG", multiplier=0.6)


def adaptive_guidance(w: Wires) -> Wires:
    return w.on_model("APG", eta=0.8, norm_threshold=5.0, momentum=0.1)


def lcm_sampling(w: Wires) -> Wires:
    return w.on_model("ModelSamplingDiscrete", sampling="lcm", zsnr=False).with_widgets(sampler_name="lcm", cfg=1.0)


def zero_terminal_snr(w: Wires) -> Wires:
    return w.on_model("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True)


def epsilon_scaling(w: Wires) -> Wires:
    return w.on_model("Epsilon Scaling", scaling_factor=1.01)


def lora(w: Wires) -> Wires:
    return w.on_model("LoraLoaderModelOnly", lora_name=w.lora, strength_model=0.8)


# ------------------------------------------------------------------ nodes on the prompts
def area(w: Wires) -> Wires:
    part = w.call("ConditioningSetArea", conditioning=w.positive, width=32, height=48, x=16, y=0, strength=0.8)
    return replace(w, positive=w.call("ConditioningCombine", conditioning_1=w.positive, conditioning_2=part))


def mask(w: Wires) -> Wires:
    left = torch.zeros(1, SIZE, SIZE)
    left[:, :, :24] = 1.0
    part = w.call("ConditioningSetMask", conditioning=w.positive, mask=left, strength=1.0, set_cond_area="mask bounds")
    return replace(w, positive=w.call("ConditioningCombine", conditioning_1=w.negative, conditioning_2=part))


def timestep_ranges(w: Wires) -> Wires:
    early = w.call("ConditioningSetTimestepRange", conditioning=w.positive, start=0.0, end=0.4)
    late = w.call("ConditioningSetTimestepRange", conditioning=w.negative, start=0.4, end=1.0)
    both = w.call("ConditioningCombine", conditioning_1=early, conditioning_2=late)
    return replace(w, positive=both).with_widgets(steps=4)


def longer_prompt(w: Wires) -> Wires:
    """Two chunks against one: the host repeats the shorter text."""
    return replace(w, positive=w.call("ConditioningConcat", conditioning_to=w.positive, conditioning_from=w.negative))


def much_longer_prompt(w: Wires) -> Wires:
    """Five chunks against one, which the host runs apart from the negative prompt."""
    for _ in range(2):
        w = longer_prompt(replace(w, negative=longer_prompt(w).positive))
    return replace(w, negative=[[entry[0][:, :77], entry[1]] for entry in w.negative])


def averaged_prompt(w: Wires) -> Wires:
    mixed = w.call(
        "ConditioningAverage", conditioning_to=w.positive, conditioning_from=w.negative, conditioning_to_strength=0.6
    )
    return replace(w, positive=mixed)


def control_net(w: Wires) -> Wires:
    net = w.call("ControlNetLoader", control_net_name=w.control_net)
    hint = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(2))
    positive, negative = w.host.call(
        "ControlNetApplyAdvanced", positive=w.positive, negative=w.negative, control_net=net, image=hint,
        strength=0.9, start_percent=0.0, end_percent=0.8,
    )  # fmt: skip
    return replace(w, positive=positive, negative=negative)


def hooked_lora(w: Wires) -> Wires:
    """A LoRA on one of two prompts, whose strength changes between the steps."""
    hook = w.call("CreateHookLora", lora_name=w.lora, strength_model=1.0, strength_clip=1.0)
    first = w.call("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0)
    both = w.call("CreateHookKeyframe", strength_mult=0.3, start_percent=0.5, prev_hook_kf=first)
    hook = w.call("SetHookKeyframes", hooks=hook, hook_kf=both)
    positive, negative = w.host.call(
        "PairConditioningSetPropertiesAndCombine", positive=w.positive, negative=w.negative,
        positive_NEW=w.positive, negative_NEW=w.negative, strength=0.7, set_cond_area="default", hooks=hook,
    )  # fmt: skip
    return replace(w, positive=positive, negative=negative).with_widgets(steps=4)


# ------------------------------------------------------------------ nodes on the latent
def batch_of_two(w: Wires) -> Wires:
    return replace(w, latent=empty_latent(w.host, 2))


def not_square(w: Wires) -> Wires:
    return replace(w, latent=empty_latent(w.host, 1, 72, 104))


def painted(w: Wires) -> Wires:
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return replace(w, latent={"samples": latent}).with_widgets(denoise=0.7, steps=3)


def inpainting(w: Wires) -> Wires:
    hole = torch.zeros(1, SIZE, SIZE)
    hole[:, 16:48, 16:48] = 1.0
    w = painted(w)
    return replace(w, latent=w.call("SetLatentNoiseMask", samples=w.latent, mask=hole))


def differential_diffusion(w: Wires) -> Wires:
    ramp = torch.linspace(0, 1, SIZE).expand(1, SIZE, SIZE)
    w = painted(w).on_model("DifferentialDiffusion")
    return replace(w, latent=w.call("SetLatentNoiseMask", samples=w.latent, mask=ramp))


ON_MODEL = [
    freeu_v2, perturbed_attention, self_attention_guidance, ip_adapter, deep_shrink, hypertile,
    rescaled_guidance, adaptive_guidance, lcm_sampling, zero_terminal_snr, epsilon_scaling, lora,
]  # fmt: skip
ON_PROMPTS = [
    area, mask, timestep_ranges, longer_prompt, much_longer_prompt, averaged_prompt, control_net, hooked_lora,
]  # fmt: skip
ON_LATENT = [batch_of_two, not_square, painted, inpainting, differential_diffusion]
