"""Fusions by themselves: exactness of the blend, gradients of everything that is trained, what each method fuses."""

import pytest
import torch
from torch.autograd import gradcheck

from afa_core.aggregator.config import AggregatorConfig
from afa_core.aggregator.precision import CastAggregator
from afa_core.aggregator.sabw import Aggregator
from afa_core.fusion.averages import StaticFusion
from afa_core.fusion.fusion import Embeddings, FusionError, FusionState, blend, logits_of
from afa_core.fusion.lockstep import lockstep
from afa_core.fusion.points import FusionPoint
from afa_core.fusion.sabw_fusion import SABWFusion
from afa_core.host.architectures.unet_layout import unet_points


def random_logits(*shape: int) -> torch.Tensor:
    return torch.randn(shape).mul(3)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ------------------------------------------------------------------ blend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [2, 3, 8])
def test_equal_features_stay_what_they_are(dtype, n):
    feature = torch.randn(2, 4, 5, 3).to(dtype)
    fixed = [logits_of(row).view(1, n, 1, 1) for row in (torch.full((n,), 1 / n), torch.eye(n)[-1])]
    for logits in (random_logits(2, n, 5, 3), *fixed):
        assert torch.equal(blend([feature] * n, logits)[0], feature)


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("as_map", [True, False])
def test_a_share_of_one_gives_that_feature(n, as_map):
    features = [torch.randn(2, 4, 5, 3) * 1e3 for _ in range(n)]
    for k in range(n):
        one_hot = torch.eye(n)[k]
        shares = one_hot.view(1, n, 1, 1).expand(2, n, 5, 3) if as_map else one_hot.view(1, n, 1, 1)
        assert torch.equal(blend(features, logits_of(shares))[0], features[k])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_blend_is_the_weighted_sum(dtype):
    features = [torch.randn(2, 4, 5, 3).to(dtype) for _ in range(4)]
    logits = random_logits(2, 4, 5, 3)
    shares = logits.softmax(1)
    expected = sum(shares[:, k : k + 1].double() * feature.double() for k, feature in enumerate(features))
    tolerance = {torch.float32: 1e-6, torch.float16: 2e-3}[dtype]  # half precision rounds at every newcomer
    found, weights = blend(features, logits)
    assert found.dtype == dtype and torch.equal(weights, shares)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_blend_does_not_write_into_its_features():
    features = [torch.randn(1, 2, 3, 3) for _ in range(3)]
    before = [feature.clone() for feature in features]
    blend(features, random_logits(1, 3, 3, 3))
    assert all(torch.equal(a, b) for a, b in zip(features, before, strict=True))


@pytest.mark.parametrize("n", [2, 3])
def test_gradients_of_blend(n):
    features = [torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(n)]
    logits = torch.randn(1, n, 2, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda logits, *features: blend(features, logits)[0], (logits, *features))


def test_gradients_of_blend_where_shares_vanish():
    """Softmax gives exact zeros when an aggregator is sure; the gradient stays finite there."""
    features = [torch.randn(1, 2, 2, 2, requires_grad=True) for _ in range(3)]
    logits = torch.tensor([-1e4, -1e4, 1e4]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2).clone().requires_grad_()
    blend(features, logits)[0].sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in (logits, *features))


# ------------------------------------------------------------------ SABW and lockstep
CHANNELS = (3, 5, 4)
POINTS = [FusionPoint(i, name, c, 1) for i, (name, c) in enumerate(zip(("input 0", "middle", "prediction"), CHANNELS))]  # noqa: B905


def tiny_aggregator(n: int = 2, **changes) -> Aggregator:
    sizes = {"text_width": 6, "time_width": 8, "hidden_size": 64, "num_layers": 1, "num_heads": 2}
    config = AggregatorConfig("test", CHANNELS, n, **{**sizes, **changes})
    aggregator = Aggregator(config, dtype=torch.float64).initialise(torch.Generator().manual_seed(3))
    for name, parameter in aggregator.named_parameters():
        if name.endswith("conv_out.weight"):
            parameter.data.normal_()
    return aggregator


def tiny_state(n: int = 2, requires_grad: bool = False) -> FusionState:
    def tensors(*shape):
        return [torch.randn(shape, dtype=torch.float64, requires_grad=requires_grad) for _ in range(n)]

    return FusionState([Embeddings(*both) for both in zip(tensors(1, 8), tensors(1, 4, 6), strict=True)])


@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_of_sabw(layers):
    """By its inputs and by every one of its parameters."""
    aggregator = tiny_aggregator(num_layers=layers)
    names, parameters = zip(*aggregator.named_parameters(), strict=True)
    inputs = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in [(1, 8), (1, 4, 6), (1, 5, 2, 3), (1, 5, 2, 3)]
    ]

    def logits(time, text, a, b, *values):
        weights = dict(zip(names, values, strict=True))
        read = torch.func.functional_call(aggregator, weights, (time, text))[1]
        own = {n.removeprefix("aggregators.1."): w for n, w in weights.items() if n.startswith("aggregators.1.")}
        return torch.func.functional_call(aggregator.aggregators["1"], own, ([a, b], read))

    assert gradcheck(logits, (*inputs, *parameters), fast_mode=True)


def test_cast_weights_are_the_weights():
    """In another dtype an aggregator gives the same numbers, and its gradients are those of the weights."""
    aggregator = tiny_aggregator().float()
    inputs = [torch.randn(shape) for shape in [(1, 8), (1, 4, 6), (1, 5, 2, 3), (1, 5, 2, 3)]]

    def run(aggregator, dtype):
        time, text, *features = (tensor.to(dtype) for tensor in inputs)
        return aggregator.logits(1, features, aggregator(time, text)[1], 1).float()

    gradients = []
    for dtype in (torch.float32, torch.float64):
        aggregator.zero_grad()
        found = run(aggregator if dtype == torch.float32 else CastAggregator(aggregator, dtype, torch.device("cpu")), dtype)
        torch.testing.assert_close(found, run(aggregator, torch.float32), rtol=1e-4, atol=1e-4)
        found.sum().backward()
        gradients.append({name: p.grad for name, p in aggregator.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-3)


def test_cast_weights_are_on_one_device():
    """The host may have loaded a part of them; "meta" stands for another device."""
    aggregator = tiny_aggregator()
    aggregator.text.to("meta")
    assert {weight.device.type for weight in aggregator.parameters()} == {"cpu", "meta"}
    cast = CastAggregator(aggregator, torch.float32, torch.device("meta"))
    assert {weight.device.type for weight in cast.weights.values()} == {"meta"}


@pytest.mark.parametrize("weights", [torch.float32, torch.float16])
def test_blocks_in_full_and_a_prediction_in_half_precision(weights):
    """As Anima and Cosmos-Predict2 give them: what runs through their blocks is too large for float16."""
    exact, state = tiny_aggregator(tokens=True), tiny_state()
    for name, parameter in exact.named_parameters():
        if name.endswith("conv_out.weight"):
            parameter.data *= 0.1
    rounded = Aggregator(exact.config, dtype=weights)
    rounded.load_state_dict(exact.state_dict())
    features = [torch.randn(1, 3, 4, 4, dtype=torch.float64) * size for size in (1e6, 2e6)]
    predictions = [torch.randn(1, 4, 4, 4, dtype=torch.float64) for _ in range(2)]

    @torch.no_grad()
    def fused(aggregator, blocks, prediction):
        fusion, own = SABWFusion(aggregator), FusionState(state.embeddings)
        pairs = (POINTS[0], features, blocks), (POINTS[2], predictions, prediction)
        return [fusion(point, [each.to(dtype) for each in pair], own)[0] for point, pair, dtype in pairs]

    found, expected = fused(rounded, torch.float32, torch.float16), fused(exact, torch.float64, torch.float64)
    assert [each.dtype for each in found] == [torch.float32, torch.float16]
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 0.01 * other.abs().max()


def test_a_state_dict_has_the_release_s_keys():
    aggregator = tiny_aggregator(num_layers=2)
    state = aggregator.state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == dict(aggregator.config.shapes())
    other = Aggregator(aggregator.config, dtype=torch.float64)
    other.load_state_dict({key: tensor.clone() for key, tensor in state.items()})
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), aggregator.parameters(), strict=True))


def toy_stream(weights: list[torch.Tensor]):
    """A network of three 1x1 convolutions with a skip from the first to the last."""
    first, second, third = weights
    h = skip = yield torch.tanh(torch.einsum("oi,bihw->bohw", first, torch.ones(1, 2, 2, 2, dtype=first.dtype)))
    h = yield torch.tanh(torch.einsum("oi,bihw->bohw", second, h))
    yield torch.einsum("oi,bihw->bohw", third, torch.cat([h, skip], 1))


def toy_weights(requires_grad: bool = False) -> list[torch.Tensor]:
    shapes = [(3, 2), (5, 3), (4, 8)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=requires_grad) for shape in shapes]


def test_gradients_through_lockstep():
    aggregator = tiny_aggregator()
    experts = [toy_weights(requires_grad=True) for _ in range(2)]
    state = tiny_state(requires_grad=True)

    def prediction(*_):
        fresh = FusionState(state.embeddings)
        return lockstep([toy_stream(weights) for weights in experts], POINTS, SABWFusion(aggregator), fresh)

    inputs = [
        *experts[0],
        *experts[1],
        *(e for own in state.embeddings for e in (own.time, own.text)),
        *aggregator.parameters(),
    ]
    assert gradcheck(prediction, inputs, fast_mode=True)


def test_every_parameter_of_an_aggregator_is_trained():
    aggregator = tiny_aggregator(num_layers=2)
    streams = [toy_stream(toy_weights()) for _ in range(2)]
    lockstep(streams, POINTS, SABWFusion(aggregator), tiny_state()).square().sum().backward()
    assert [name for name, p in aggregator.named_parameters() if p.grad is None or not p.grad.any()] == []


# ------------------------------------------------------------------ methods
def fused_points(fusion, points) -> list[str]:
    """Names of the points where two different features come out as one."""
    found = []
    for point in points:
        features = [torch.zeros(1, point.channels, 2, 2), torch.ones(1, point.channels, 2, 2)]
        inputs = fusion(point, features, FusionState([]))
        if inputs[0] is inputs[1]:
            found.append(point.name)
        else:
            assert all(sent is own for sent, own in zip(inputs, features, strict=True))
    return found


SD15 = unet_points(320, [1, 2, 4, 4], [2] * 4, 4)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("block average", [point.name for point in SD15]),
        ("last block average", ["output 10", "prediction"]),
        ("noise average", ["prediction"]),
    ],
)
def test_where_each_method_fuses(method, expected):
    assert fused_points(StaticFusion(method).bind(SD15, 2), SD15) == expected


def test_points_of_the_families():
    """The authors' code for SD1.5; SDXL by the same rule."""
    assert [p.channels for p in SD15] == [320] * 4 + [640] * 3 + [1280] * 5 + [1280] + [1280] * 6 + [640] * 3 + [
        320
    ] * 2 + [4]
    assert [p.stride for p in SD15] == [1] * 3 + [2] * 3 + [4] * 3 + [8] * 3 + [8] + [8] * 2 + [4] * 3 + [2] * 3 + [
        1
    ] * 3 + [1]
    sdxl = unet_points(320, [1, 2, 4], [2] * 3, 4)
    assert [p.name for p in sdxl] == [
        *(f"input {i}" for i in range(9)), "middle", *(f"output {i}" for i in range(8)), "prediction",
    ]  # fmt: skip


def test_weights_are_scaled_to_a_sum_of_one():
    fusion = StaticFusion("noise average", (3.0, 1.0)).bind(SD15, 2)
    features = [torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)]
    assert torch.equal(fusion(SD15[-1], features, FusionState([]))[0], torch.full((1, 4, 2, 2), 0.25))


@pytest.mark.parametrize("weights", [(1.0, 2.0, 3.0), (0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0)])
def test_weights_that_cannot_be(weights):
    with pytest.raises(FusionError):
        StaticFusion("block average", weights).bind(SD15, 2)


@pytest.mark.parametrize("ablation", ["time", "text", "space"])
def test_an_ablated_aggregator_goes_without(ablation):
    """What was taken away changes nothing any more; with the whole aggregator it does."""

    def shares(aggregator, time, text):
        torch.manual_seed(5)
        features = [torch.randn(1, 5, 4, 4, dtype=torch.float64) for _ in range(2)]
        return aggregator.logits(1, features, aggregator(time, text)[1], 1).softmax(1)

    embeddings = tiny_state(2).embeddings
    time, text = [own.time for own in embeddings], [own.text for own in embeddings]
    changed = {
        "time": lambda aggregator: shares(aggregator, time[1], text[0]) - shares(aggregator, time[0], text[0]),
        "text": lambda aggregator: shares(aggregator, time[0], text[1]) - shares(aggregator, time[0], text[0]),
        "space": lambda aggregator: shares(aggregator, time[0], text[0]).std((2, 3)),
    }[ablation]
    assert changed(tiny_aggregator()).abs().max() > 1e-3
    assert changed(tiny_aggregator(ablations=(ablation,))).abs().max() < 1e-12


def test_max_fusion_follows_the_larger_variance_position_by_position():
    from afa_core.fusion.variance import MaxFusion

    quiet = torch.randn(2, 8, 3, 4, generator=torch.Generator().manual_seed(0))
    loud = 3 * quiet.flip(1) + 1
    mixed = [quiet.clone(), loud.clone()]
    mixed[0][..., :2], mixed[1][..., :2] = loud[..., :2], quiet[..., :2]
    seen = []
    state = FusionState([], lambda point, shares: seen.append(shares))
    fused = MaxFusion().bind(POINTS, 2)(POINTS[1], mixed, state)
    assert torch.equal(fused[0], loud)
    assert fused[1] is fused[0]
    assert torch.equal(seen[0][:, 0], torch.ones(2, 3, 4).index_fill(2, torch.tensor([2, 3]), 0.0))


def test_max_fusion_of_equal_features_changes_nothing():
    from afa_core.fusion.variance import MaxFusion

    feature = torch.randn(1, 4, 2, 2)
    fused = MaxFusion().bind(POINTS, 3)(POINTS[0], [feature, feature.clone(), feature.clone()], FusionState([]))
    assert torch.equal(fused[0], feature)
