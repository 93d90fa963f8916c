"""A stream of one expert is the host's own forward pass, to the bit, on whatever ComfyUI the tests run.

Each case runs twice on one network: by the host and by the stream. What it hands over (control residuals,
patches that write in place) is made anew for each run.
"""

from types import SimpleNamespace

import pytest
import torch

TOYS = ["tiny_sd15_a", "tiny_sd2_a", "tiny_sdxl_a"]


@pytest.fixture(scope="module", params=TOYS)
def unet(request, comfy_host):
    model = comfy_host.call("CheckpointLoaderSimple", ckpt_name=f"{request.param}.safetensors")[0]
    return model.model.diffusion_model


@pytest.fixture
def inputs(unet):
    """Keyword arguments of the network's forward for a batch of two with timesteps of their own."""
    generator = torch.Generator().manual_seed(5)

    def tensor(*shape):
        return torch.randn(shape, generator=generator)

    width = next(m for name, m in unet.named_modules() if name.endswith("attn2.to_k")).in_features
    label = None if unet.num_classes is None else tensor(2, unet.label_emb[0][0].in_features)
    return {
        "x": tensor(2, 4, 16, 12),
        "timesteps": torch.tensor([17.0, 803.0]),
        "context": tensor(2, 77, width),
        "y": label,
    }


def alone(point, features, state):
    """A fusion that leaves every expert what is its own."""
    return features


def by_host(unet, inputs, control=None, options=None):
    own = {name: None if tensor is None else tensor.clone() for name, tensor in inputs.items()}
    with torch.inference_mode():
        return unet(**own, control=control, transformer_options=options or {})


def points_of(unet):
    from afa_core.host.architectures.unet import UNet

    return UNet().points(SimpleNamespace(diffusion_model=unet))


def by_stream(unet, inputs, control=None, options=None, fusion=alone, dtype=torch.float32):
    from afa_core.fusion.fusion import Embeddings, FusionState
    from afa_core.fusion.lockstep import lockstep
    from afa_core.host.architectures.unet_stream import time_embedding, unet_stream

    with torch.inference_mode():
        time = time_embedding(unet, inputs["timesteps"], dtype)
        shared = (inputs["x"], inputs["context"], time)
        before = [tensor.clone() for tensor in shared]
        stream = unet_stream(unet, {**inputs, "control": control, "transformer_options": options or {}}, time)
        state = FusionState([Embeddings(time, inputs["context"])])
        prediction = lockstep([stream], points_of(unet), fusion, state)
        for tensor, original in zip(shared, before, strict=True):
            assert torch.equal(tensor, original), "the stream wrote into what other experts read"
    return prediction


def copies(point, features, state):
    """A fusion that hands out a tensor that another expert holds too, as a real one does."""
    held = features[0].clone()
    copies.held.append((held, held.clone()))
    return [held]


@pytest.fixture(autouse=True)
def _held():
    copies.held = []


def check(unet, inputs, control=lambda: None, options=dict) -> torch.Tensor:
    """Host, stream, and stream that was sent shared tensors agree; gives the host's prediction."""
    expected = by_host(unet, inputs, control(), options())
    assert torch.equal(by_stream(unet, inputs, control(), options()), expected)
    assert torch.equal(by_stream(unet, inputs, control(), options(), fusion=copies), expected)
    assert copies.held
    for tensor, original in copies.held:
        assert torch.equal(tensor, original), "a stream wrote into what another expert holds"
    return expected


def residuals(unet, inputs, kinds=("input", "middle", "output")):
    """As a ControlNet's: `output` has one residual for every skip connection, popped from the end."""
    skips, middle = [], []

    def note(h, options):
        skips.append(h.shape)
        return h

    def note_middle(h, skip, options):
        middle.append(h.shape)
        return h, skip

    by_host(unet, inputs, None, {"patches": {"input_block_patch": [note], "output_block_patch": [note_middle]}})
    shapes = {"input": skips[::-1], "middle": middle[:1], "output": skips}
    generator = torch.Generator().manual_seed(6)
    made = {kind: [0.3 * torch.randn(shape, generator=generator) for shape in shapes[kind]] for kind in kinds}
    return lambda: {kind: [tensor.clone() for tensor in tensors] for kind, tensors in made.items()}


def test_plain(unet, inputs):
    check(unet, inputs)


def test_a_patch_that_joins_the_skip_connection_itself(unet, inputs):
    """As SUPIR's on newer hosts."""

    def joined(h, skip, options):
        return torch.cat([h, 0.5 * skip], dim=1), None

    patches = {"patches": {"output_block_patch": [joined]}}
    try:
        by_host(unet, inputs, options=patches)
    except TypeError:
        pytest.skip("this ComfyUI joins what a patch gives")
    check(unet, inputs, options=lambda: patches)


@pytest.mark.parametrize("size", [(20, 28), (13, 9), (8, 8)])
def test_latents_of_any_size(unet, inputs, size):
    check(unet, {**inputs, "x": torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(1))})


@pytest.mark.parametrize("kinds", [("output", "middle"), ("input",), ("input", "middle", "output")])
def test_control_residuals(unet, inputs, kinds):
    expected = check(unet, inputs, residuals(unet, inputs, kinds))
    assert not torch.equal(expected, by_host(unet, inputs))


def test_control_residuals_with_gaps(unet, inputs):
    """A T2I adapter gives None where it has nothing to say, and lists that end early."""
    made = residuals(unet, inputs)

    def gappy():
        control = made()
        control["output"] = [None if i % 2 else residual for i, residual in enumerate(control["output"])][-5:]
        control["input"] = control["input"][-3:]
        return control

    check(unet, inputs, gappy)


# ------------------------------------------------------------------ patches, all of which write in place
def block_patch(h, options):
    kind, number = options["block"]
    return h.mul_(1.0 + 0.01 * number).add_(0.1 if kind == "input" else 0.2)


def output_patch(h, skip, options):
    h[:, : h.shape[1] // 2] *= 1.1  # as FreeU does
    skip.mul_(0.9)
    return h, skip


def embedding_patch(emb, channels, options):
    return emb.add_(0.05 * channels / 64)


def layer_patch(layer, x, emb, context, options, *rest):
    return layer(x.mul_(0.5).add_(0.5))


def middle_patch(arguments):
    arguments["h"].mul_(0.8)
    return arguments


def qkv_patch(q, k, v, extra):
    return q.mul_(1.0 + 0.1 * extra["block"][1]), k.mul_(1.01), v * 0.9


def output_of_attention(n, extra):
    return n.mul_(1.1 + 0.01 * extra["block_index"])


PATCHES = {
    "input_block_patch": block_patch,
    "input_block_patch_after_skip": block_patch,
    "output_block_patch": output_patch,
    "emb_patch": embedding_patch,
    "forward_timestep_embed_patch": (torch.nn.Conv2d, layer_patch),
    "attn1_patch": qkv_patch,
    "attn2_patch": qkv_patch,
    "attn1_output_patch": output_of_attention,
    "attn2_output_patch": output_of_attention,
    "middle_patch": lambda x, extra: x,
}


@pytest.mark.parametrize("name", list(PATCHES))
def test_patches_that_write_in_place(unet, inputs, name):
    expected = check(unet, inputs, options=lambda: {"patches": {name: [PATCHES[name], PATCHES[name]]}})
    if name != "middle_patch":
        assert not torch.equal(expected, by_host(unet, inputs))


def test_the_patch_after_the_middle_block_where_the_host_knows_it(unet, inputs):
    options = {"patches": {"middle_block_after_patch": [middle_patch]}}
    if torch.equal(by_host(unet, inputs, options=options), by_host(unet, inputs)):
        pytest.skip("this ComfyUI has no such patch yet")
    check(unet, inputs, options=lambda: {"patches": {"middle_block_after_patch": [middle_patch]}})


@pytest.mark.parametrize("attention", ["attn1", "attn2"])
def test_replaced_attention(unet, inputs, attention):
    """In one block, and in one of two transformers of a block where the network has such."""

    def replaced(q, k, v, extra):
        assert extra["n_heads"] * extra["dim_head"] == q.shape[-1]
        return q.add_(v.mean(1, keepdim=True))

    slots = [("middle", 0), ("input", 1), ("input", 8, 1), ("output", 3)]
    options = {"patches_replace": {attention: dict.fromkeys(slots, replaced)}}
    expected = check(unet, inputs, options=lambda: options)
    assert not torch.equal(expected, by_host(unet, inputs))


def test_overridden_attention(unet, inputs):
    from comfy.ldm.modules.attention import attention_pytorch

    seen = []

    def override(function, *args, **kwargs):
        seen.append(kwargs["transformer_options"]["block"])
        return attention_pytorch(*args, **kwargs)

    options = {"optimized_attention_override": override}
    expected = by_host(unet, inputs, options=dict(options))
    by_the_host, seen[:] = seen[:], []
    assert torch.equal(by_stream(unet, inputs, options=dict(options)), expected)
    assert seen == by_the_host


def test_everything_at_once(unet, inputs):
    check(
        unet,
        inputs,
        residuals(unet, inputs),
        lambda: {"patches": {name: [patch] for name, patch in PATCHES.items()}},
    )


def test_patches_are_told_the_same(unet, inputs):
    """Block, index, shapes and every other entry of the options, at every call of a patch."""

    def watch(run):
        seen = []

        def note(options, *tensors):
            entries = {key: value for key, value in options.items() if key != "patches"}
            seen.append(entries | {"shapes": [tuple(tensor.shape) for tensor in tensors]})

        def block(h, options):
            note(options, h)
            return h

        def output(h, skip, options):
            note(options, h, skip)
            return h, skip

        def attention(q, k, v, extra):
            note(extra, q, k, v)
            return q, k, v

        run(
            unet,
            inputs,
            options={
                "patches": {"input_block_patch": [block], "output_block_patch": [output], "attn2_patch": [attention]},
                "cond_or_uncond": [1, 0],
            },
        )
        return [{key: str(value) for key, value in entry.items()} for entry in seen]

    by_the_host = watch(by_host)
    assert len(by_the_host) > 20
    assert watch(by_stream) == by_the_host


def test_points_are_where_the_stream_yields(unet, inputs):
    seen = []

    def watch(point, features, state):
        (feature,) = features
        seen.append((point.index, point.channels, tuple(feature.shape[-2:])))
        return features

    by_stream(unet, {**inputs, "x": torch.randn(2, 4, 16, 24)}, fusion=watch)
    points = points_of(unet)
    assert seen == [(p.index, p.channels, (16 // p.stride, 24 // p.stride)) for p in points]
    assert len(points) == (19 if unet.num_classes is not None else 25)
