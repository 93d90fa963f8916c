"""A low-rank patch beside a layer gives what the host gives with the patch merged into the weight."""

import pytest
import torch

LAYERS = {
    "linear": lambda ops: ops.Linear(12, 20),
    "convolution": lambda ops: ops.Conv2d(12, 20, 3, padding=1),
    "strided": lambda ops: ops.Conv2d(12, 20, 3, stride=2, padding=1),
    "1x1": lambda ops: ops.Conv2d(12, 20, 1),
}


@pytest.fixture(scope="module")
def host(comfy_host, pack):
    return comfy_host


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def network(make):
    """A module with one layer of the host's, random."""
    import comfy.ops

    layer = make(comfy.ops.disable_weight_init)
    for parameter in layer.parameters():
        parameter.data = random(*parameter.shape)
    return torch.nn.ModuleDict({"layer": layer}).requires_grad_(False)


def lora(layer, alpha=None, mid=False, rank=3, part=None):
    """A patch of the host's kind; strength, part and function are left open."""
    from comfy.weight_adapter import LoRAAdapter

    rows, columns, *window = layer.weight.shape
    if part is not None:
        rows, columns = (part[2], columns) if part[0] == 0 else (rows, part[2])
    ones = [1] * len(window)
    middle = random(rank, rank, *window) if mid else None
    down = random(rank, columns, *(ones if mid else window))
    return LoRAAdapter(set(), (random(rows, rank, *ones), down, alpha, middle, None, None))


def merged(module, patches, x):
    """As the host computes it: the patches in a copy of the weight."""
    import comfy.lora

    layer = module["layer"]
    weight = comfy.lora.calculate_weight(patches, layer.weight.clone(), "layer.weight")
    return torch.func.functional_call(layer, {"weight": weight}, (x,))


def beside(module, patches, x):
    from comfy.model_patcher import ModelPatcher

    from afa_core.host.experts.beside import LayerHooks, PatchesBeside, acting, adding, obstacle

    layer = module["layer"]
    assert not any(obstacle(patch, layer) for patch in patches)
    hooks = LayerHooks()
    own = PatchesBeside({"layer": [adding(patch, layer, torch.float32) for patch in patches]}, hooks)
    patcher = ModelPatcher(module, torch.device("cpu"), torch.device("cpu"))
    patcher.set_injections("afa", [hooks.injection])
    plain = layer(x)
    patcher.inject_model()
    assert torch.equal(layer(x), plain)
    with acting(own):
        found = layer(x)
    patcher.eject_model()
    with acting(own):
        assert torch.equal(layer(x), plain)
    return found


CASES = {
    "one": lambda layer: [(0.8, lora(layer), 1.0, None, None)],
    "negative": lambda layer: [(-1.0, lora(layer, alpha=1.5), 1.0, None, None)],
    "several": lambda layer: [(s, lora(layer, alpha=2.0, rank=r), 1.0, None, None) for s, r in ((2.0, 1), (0.3, 4))],
    "part of the output": lambda layer: [(1.0, lora(layer, part=(0, 5, 10)), 1.0, (0, 5, 10), None)],
    "part of the input": lambda layer: [(1.0, lora(layer, part=(1, 2, 6)), 1.0, (1, 2, 6), None)],
}


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("kind", list(LAYERS))
def test_equals_the_merged_weight(host, kind, case):
    module = network(LAYERS[kind])
    patches = CASES[case](module["layer"])
    x = random(2, 12, 8, 8) if kind != "linear" else random(2, 7, 12)
    with torch.inference_mode():
        expected, found = merged(module, patches, x), beside(module, patches, x)
    assert not torch.allclose(expected, module["layer"](x), rtol=0.1)
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_a_locon_with_a_middle(host):
    module = network(LAYERS["strided"])
    patches = [(0.7, lora(module["layer"], alpha=2.0, mid=True), 1.0, None, None)]
    x = random(2, 12, 8, 8)
    with torch.inference_mode():
        expected, found = merged(module, patches, x), beside(module, patches, x)
    assert (found - expected).norm() < 1e-5 * expected.norm()


def loha(layer, middle=False, rank=3):
    from comfy.weight_adapter import LoHaAdapter

    rows, columns, *window = layer.weight.shape
    weights = {"alpha": 2.0, "dora": None, "t1": None, "t2": None}
    for number in (1, 2):
        if middle:
            weights[f"t{number}"] = random(rank, rank, *window)
            weights[f"w{number}a"], weights[f"w{number}b"] = random(rank, rows), random(rank, columns)
        else:
            weights[f"w{number}a"], weights[f"w{number}b"] = random(rows, rank), random(rank, layer.weight[0].numel())
    names = ("w1a", "w1b", "alpha", "w2a", "w2b", "t1", "t2", "dora")
    return LoHaAdapter(set(), tuple(weights[name] for name in names))


def lokr(layer, first="whole", second="whole", alpha=5.0):
    """Factors of 4 x 3 and the rest; "product": of two matrices, of another rank each; "middle": with the window between them."""
    from comfy.weight_adapter import LoKrAdapter

    rows, columns, *window = layer.weight.shape
    rows, columns = rows // 4, columns // 3
    w1, w2, w1_a, w1_b, w2_a, w2_b, t2 = [None] * 7
    if first == "whole":
        w1 = random(4, 3)
    else:
        w1_a, w1_b = random(4, 2), random(2, 3)
    if second == "whole":
        w2 = random(rows, columns, *window)
    elif second == "product":
        w2_a, w2_b = random(rows, 6), random(6, columns * layer.weight[0, 0].numel())
    else:
        w2_a, w2_b, t2 = random(6, rows), random(6, columns), random(6, 6, *window)
    return LoKrAdapter(set(), (w1, w2, alpha, w1_a, w1_b, w2_a, w2_b, t2, None))


def with_second_whole(adapter):
    """A LoKr with a middle as one without: the host's own merging fails on it."""
    _, _, alpha, _, _, w2_a, w2_b, t2, _ = adapter.weights
    w2 = torch.einsum("ijkl,jr,ip->prkl", t2, w2_b, w2_a).contiguous() * alpha / len(w2_b)
    return type(adapter)(set(), (adapter.weights[0], w2, *[None] * 7))


PRODUCTS = {
    "LoHa": loha,
    "LoHa with a middle": lambda layer: loha(layer, middle=True),
    "LoKr": lokr,
    "LoKr without alpha": lambda layer: lokr(layer, "product", "product", alpha=None),
    "LoKr, first a product": lambda layer: lokr(layer, "product"),
    "LoKr, second a product": lambda layer: lokr(layer, second="product"),
    "LoKr, both products": lambda layer: lokr(layer, "product", "product"),
    "LoKr with a middle": lambda layer: lokr(layer, second="middle"),
}


@pytest.mark.parametrize("case", list(PRODUCTS))
@pytest.mark.parametrize("kind", list(LAYERS))
def test_a_product_equals_the_merged_weight(host, kind, case):
    """Together with a LoRA, forwards and backwards."""
    import comfy.weight_adapter

    if not hasattr(comfy.weight_adapter, "BypassForwardHook"):
        pytest.skip("LoHa and LoKr beside weights need ComfyUI's bypass mode")
    if "middle" in case and kind == "linear":
        pytest.skip("a middle is for windows")
    module = network(LAYERS[kind])
    layer = module["layer"]
    product = PRODUCTS[case](layer)
    mergeable = with_second_whole(product) if case == "LoKr with a middle" else product
    found = []
    for run, adapter in ((merged, mergeable), (beside, product)):
        patches = [(-0.7, adapter, 1.0, None, None), (0.5, lora(layer), 1.0, None, None)]
        x = random(2, 12, 8, 8) if kind != "linear" else random(2, 7, 12)
        output = run(module, patches, x.requires_grad_())
        output.square().sum().backward()
        found.append((output.detach(), x.grad))
    for expected, mine in zip(*found, strict=True):
        assert (mine - expected).norm() < 1e-5 * expected.norm()
    assert not torch.allclose(found[0][0], layer(x), rtol=0.1)


def test_a_host_without_bypass_mode_is_named(host):
    import comfy.weight_adapter

    from afa_core.host.experts.beside import obstacle

    layer = network(LAYERS["linear"])["layer"]
    found = [obstacle((1.0, make(layer), 1.0, None, None), layer) for make in (loha, lokr)]
    known = hasattr(comfy.weight_adapter, "BypassForwardHook")
    expected = [None if known else f"a {kind}, on a ComfyUI without bypass mode," for kind in ("LoHa", "LoKr")]
    assert found == expected


def test_gradients_pass_through(host):
    module = network(LAYERS["convolution"])
    patches = CASES["several"](module["layer"])
    gradients = []
    for run in (merged, beside):
        x = random(2, 12, 8, 8).requires_grad_()
        run(module, patches, x).square().sum().backward()
        gradients.append(x.grad)
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()


def with_weights(adapter, **changes):
    names = ("up", "down", "alpha", "mid", "dora", "reshape")
    weights = [changes.get(name, weight) for name, weight in zip(names, adapter.weights, strict=True)]
    return type(adapter)(adapter.loaded_keys, tuple(weights))


def test_what_cannot_act_beside_the_weights(host):
    from afa_core.host.experts.beside import obstacle

    layer = network(LAYERS["linear"])["layer"]
    good = lora(layer)
    found = {
        obstacle(patch, layer)
        for patch in (
            (1.0, good, 0.5, None, None),
            (1.0, (random(20, 12),), 1.0, None, None),
            (1.0, ("set", (random(20, 12),)), 1.0, None, None),
            (1.0, with_weights(good, dora=random(20, 1)), 1.0, None, None),
            (1.0, with_weights(good, reshape=[24, 12]), 1.0, None, None),
            (1.0, with_weights(good, up=random(21, 3)), 1.0, None, None),
        )
    }
    assert found == {
        "a merge with another model",
        "a patch of kind diff",
        "a patch of kind set",
        "a DoRA",
        "a LoRA of a rearranged weight",
        "a LoRA of shape 21 x 12 on 20 x 12",
    }
    assert obstacle((1.0, good, 1.0, None, None), torch.nn.LayerNorm(12)) == "a LoRA on a LayerNorm"


def test_what_depends_on_the_weight_that_it_finds(host):
    from comfy.weight_adapter import OFTAdapter

    from afa_core.host.experts.beside import changes_weight

    layer = network(LAYERS["linear"])["layer"]
    adapters = [lora(layer), loha(layer), lokr(layer)]
    doras = [type(a)(set(), (*a.weights[:at], random(20, 1), *a.weights[at:][1:])) for a, at in zip(adapters, (4, 7, 8), strict=True)]  # fmt: skip
    plain = [*adapters, (random(20, 12),)]
    changing = [*doras, OFTAdapter(set(), (random(2, 6, 6), None, None, None))]
    assert not any(changes_weight((1.0, added, 1.0, None, None)) for added in plain)
    assert all(changes_weight((1.0, added, 1.0, None, None)) for added in changing)
    assert changes_weight((1.0, plain[0], 0.5, None, None))


def test_a_stream_and_what_runs_between_its_turns(host):
    """Two streams in turns: each finds its own patches at every turn, and their caller none."""
    from afa_core.host.experts.beside import LayerHooks, PatchesBeside, acting_patches, stream_with

    stacks = [PatchesBeside({}, LayerHooks()) for _ in range(2)]

    def stream():
        for _ in range(3):
            yield acting_patches()
        raise RuntimeError

    streams = [stream_with(stack, stream()) for stack in (*stacks, None)]
    for _ in range(3):
        for running, expected in zip(streams, (*stacks, None), strict=True):
            assert next(running) is expected
            assert acting_patches() is None
    for running in streams:
        with pytest.raises(RuntimeError):
            next(running)
        assert acting_patches() is None
