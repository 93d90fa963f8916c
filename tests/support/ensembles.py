"""What the tests of the ensemble share: ensembles as an artist wires them, and a look into their fusion."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from afa_core.aggregator.config import AggregatorConfig
from afa_core.aggregator.file import AggregatorFile
from afa_core.fusion.sabw_fusion import SABWFusion


def ensemble(host, aggregator, *models, **widgets):
    """The MODEL that AFA Ensemble Model makes; `aggregator` may be a training-free method's name."""
    if isinstance(aggregator, str):
        aggregator = training_free(host, aggregator)
    sockets = {f"model_{i}": model for i, model in enumerate(models, start=1)}
    return host.call("AFAEnsembleModel", aggregator=aggregator, **sockets, **widgets)[0]


def training_free(host, method: str, weights: str = ""):
    return host.call("AFATrainingFreeFusion", method=method, weights=weights)[0]


def config_for(model, experts: int, **sizes) -> AggregatorConfig:
    """The configuration of an aggregator for `experts` checkpoints like this one."""
    from afa_core.host.experts.experts import Expert

    fields = {**Expert(model, "model").aggregator_fields, "hidden_size": 64, "num_layers": 1, **sizes}
    return AggregatorConfig(num_experts=experts, **fields)


def random_aggregator(model, experts: int, seed: int = 0, **sizes) -> AggregatorFile:
    """As if trained: every weight is random, and the shares vary from place to place."""
    config = config_for(model, experts, **sizes)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in config.shapes():
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            gain = 0.3 if key.endswith("conv_out.weight") else 1.0
            state[key] = gain * noise * noise[0].numel() ** -0.5
        else:
            state[key] = 0.1 * noise + (1.0 if key.endswith("weight") else 0.0)
    return AggregatorFile("random.safetensors", config, state)


def untrained(file: AggregatorFile) -> AggregatorFile:
    """With a zero conv_out: every share is exactly 1 / N, whatever the other weights."""
    zeros = {key: torch.zeros_like(tensor) for key, tensor in file.state.items() if key.endswith("conv_out.weight")}
    return replace(file, state={**file.state, **zeros})


def certain_aggregator(model, experts: int, chosen: int) -> AggregatorFile:
    """Follows one expert everywhere: its share is exactly 1, the others' exactly 0."""
    file = random_aggregator(model, experts)
    state = dict(file.state)
    for key, tensor in state.items():
        if ".res_block.conv2." in key or ".proj_out." in key or key.endswith("conv_in.weight"):
            state[key] = torch.zeros_like(tensor)
        elif key.endswith("conv_in.bias"):
            state[key] = torch.ones_like(tensor)
        elif key.endswith("conv_out.weight"):
            state[key] = torch.zeros_like(tensor)
            state[key][chosen] = 10.0
    return replace(file, state=state)


class Spy(SABWFusion):
    """The ensemble's own aggregator, which keeps what goes in and comes out, by index of the fusion point.

    features: N of [B, C, h, w]; shares: [B, N, h, w]; fused: [B, C, h, w]; the last evaluation's.
    """

    def __init__(self, inner: SABWFusion):
        super().__init__(inner.aggregator, inner.attend, inner.top_k)
        self.features: dict[int, list[Tensor]] = {}
        self.shares: dict[int, Tensor] = {}
        self.fused: dict[int, Tensor] = {}
        self.state = None

    def __call__(self, point, features, state):
        self.features[point.index] = [feature.clone() for feature in features]
        self.state = state
        inputs = super().__call__(point, features, replace(state, observe=self._observe))
        self.fused[point.index] = inputs[0].clone()
        return inputs

    def _observe(self, point, shares):
        self.shares[point.index] = shares.clone()


def spy_on(model) -> Spy:
    """Puts a spy around the fusion of this ensemble."""
    attached = model.get_attachment("afa")
    spy = Spy(attached.fusion)
    model.set_attachments("afa", replace(attached, fusion=spy))
    return spy


def text_for(texts: list[Tensor], **extras) -> list:
    """A conditioning that carries one text [B, L, D] an expert."""
    first, *others = texts
    return [[first, {**extras, "afa_conds": [[text, dict(extras)] for text in others]}]]


def averaged_by_the_host(first, second, share: float = 0.5):
    """A reference: `first`, every denoised prediction of which is averaged with that of `second`."""
    model = first.clone()

    def average(apply_model, given):
        c = given["c"]
        copied = {**c, "transformer_options": {**c["transformer_options"]}}
        if c.get("control"):
            copied["control"] = {kind: list(residuals) for kind, residuals in c["control"].items()}
        own = apply_model(given["input"], given["timestep"], **c)
        return share * own + (1 - share) * second.model.apply_model(given["input"], given["timestep"], **copied)

    model.set_model_unet_function_wrapper(average)
    return model
