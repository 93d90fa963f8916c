"""An identity bias: each expert's own attention map, which is AFA's at 0, and what follows for files and training."""

import dataclasses

import pytest
import torch
from torch.autograd import gradcheck

from afa_core.aggregator.config import AggregatorConfig, ConfigError
from afa_core.aggregator.file import AggregatorError, load_aggregator, save_aggregator
from afa_core.aggregator.pruning import pruned
from afa_core.aggregator.sabw import Aggregator
from afa_core.fusion.fusion import FusionState, blend
from afa_core.fusion.identity_bias import own_blends
from afa_core.fusion.lockstep import lockstep
from afa_core.fusion.sabw_fusion import SABWFusion
from afa_core.fusion.selection import KeptRouting, Selection
from afa_core.training.loop import Stop
from afa_core.training.session import Keeping, fit
from afa_core.training.state import RATE_OF_SCALARS, TrainingSettings
from afa_core.training.tasks.aggregator import AggregatorSettings, AggregatorTask
from tests.core.test_fusion import POINTS, tiny_aggregator, tiny_state, toy_stream, toy_weights
from tests.support.aggregators import random_aggregator, small_config
from tests.support.training_toys import CONFIG, ToyExperts, toy_dataset


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def plain_aggregator(n: int = 2) -> Aggregator:
    """The same at every call."""
    torch.manual_seed(2)
    return tiny_aggregator(n)


def biased_aggregator(bias: float, n: int = 2) -> Aggregator:
    """`plain_aggregator`, with this identity bias at every point that has one."""
    plain = plain_aggregator(n)
    aggregator = Aggregator(dataclasses.replace(plain.config, identity_bias=True), dtype=torch.float64)
    biases = {f"aggregators.{i}.identity_bias": torch.tensor(bias) for i in aggregator.config.biased_points}
    aggregator.load_state_dict(plain.state_dict() | biases)
    return aggregator


def predicted(fusion, n: int = 2, **state) -> torch.Tensor:
    """What an ensemble of toys predicts; the same toys and embeddings for every fusion."""
    torch.manual_seed(1)
    streams = [toy_stream(toy_weights()) for _ in range(n)]
    return lockstep(streams, POINTS, fusion, FusionState(tiny_state(n).embeddings, **state))


# ------------------------------------------------------------------ the blends
@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("bias", [-2.0, 0.0, 0.5, 4.0])
def test_own_blends_are_those_of_the_maps(n, bias):
    """softmax(logits + b one_hot(k)) for every expert k, written out."""
    features = [torch.randn(2, 4, 5, 3, dtype=torch.float64) for _ in range(n)]
    logits = 3 * torch.randn(2, n, 5, 3, dtype=torch.float64)
    blends, mean = own_blends(features, *blend(features, logits), torch.tensor(bias))
    maps = [(logits + bias * torch.eye(n)[k].view(1, n, 1, 1)).softmax(1) for k in range(n)]
    for found, own in zip(blends, maps, strict=True):
        torch.testing.assert_close(found, torch.einsum("bnhw,nbchw->bchw", own, torch.stack(features)))
    torch.testing.assert_close(mean, torch.stack(maps).mean(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_bias_of_0_gives_the_blend_to_the_bit(dtype):
    features = [torch.randn(2, 4, 5, 3).to(dtype) for _ in range(3)]
    fused, shares = blend(features, torch.randn(2, 3, 5, 3).to(dtype))
    blends, mean = own_blends(features, fused, shares, torch.zeros((), dtype=dtype))
    assert all(torch.equal(own, fused) and own.dtype == dtype for own in blends)
    assert torch.equal(mean, shares.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("bias", [-60000.0, 60000.0])
def test_any_bias_gives_numbers(dtype, bias):
    """Also where a softmax has saturated."""
    features = [torch.randn(1, 2, 2, 2).to(dtype) for _ in range(2)]
    for logit in (-1e4, 0.0, 1e4):
        fused, shares = blend(features, torch.tensor([logit, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2).to(dtype))
        blends, mean = own_blends(features, fused, shares, torch.tensor(bias))
        assert all(tensor.isfinite().all() for tensor in (*blends, mean))


@pytest.mark.parametrize("bias", [0.0, 1.5])
def test_gradients_of_own_blends(bias):
    features = [torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    logits = torch.randn(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    scalar = torch.tensor(bias, dtype=torch.float64, requires_grad=True)

    def every_output(logits, bias, *features):
        blends, mean = own_blends(features, *blend(features, logits), bias)
        return *blends, mean

    assert gradcheck(every_output, (logits, scalar, *features))


# ------------------------------------------------------------------ in lockstep
@pytest.mark.parametrize("n", [2, 3])
def test_a_biased_aggregator_at_0_is_afa_to_the_bit(n):
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    found = [
        predicted(SABWFusion(aggregator), n, observe=lambda point, shares, own=own: seen[own].append(shares))
        for own, aggregator in ((True, biased_aggregator(0.0, n)), (False, plain_aggregator(n)))
    ]
    assert torch.equal(*found)
    assert all(torch.equal(*both) for both in zip(*seen.values(), strict=True))


def test_a_large_bias_fuses_predictions_alone():
    last_only = tiny_aggregator(ablations=("blocks",))
    whole = plain_aggregator().state_dict()
    last_only.load_state_dict({key: tensor for key, tensor in whole.items() if key.startswith("aggregators.2.")})
    expected = predicted(SABWFusion(last_only))
    assert (predicted(SABWFusion(biased_aggregator(16.0))) - expected).abs().max() < 0.01
    assert (predicted(SABWFusion(biased_aggregator(0.0))) - expected).abs().max() > 1


def test_every_parameter_is_trained():
    aggregator = biased_aggregator(0.0)
    predicted(SABWFusion(aggregator)).square().sum().backward()
    assert [name for name, p in aggregator.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_who_was_left_out_goes_on_with_what_the_others_share():
    aggregator, state = biased_aggregator(2.0, 3), tiny_state(3)
    a, b = torch.randn(2, 1, 5, 2, 3, dtype=torch.float64)
    first, second, third = SABWFusion(aggregator)(POINTS[1], [a, None, b], state)
    expected = SABWFusion(plain_aggregator(3))(POINTS[1], [a, None, b], FusionState(state.embeddings))
    assert torch.equal(second, expected[1])
    assert not torch.allclose(first, second) and not torch.allclose(third, second)


# ------------------------------------------------------------------ selective ensembling
def test_kept_maps_fuse_as_they_did():
    aggregator = biased_aggregator(1.0)
    kept = KeptRouting(len(POINTS), Selection(), aggregator.identity_bias)
    found = predicted(SABWFusion(aggregator), keep=kept.keep)
    kept.end()
    assert torch.allclose(predicted(kept), found, atol=1e-12)


def test_an_expert_is_left_out_of_whole_evaluations():
    shares = torch.tensor([[0.1, 0.9], [0.6, 0.4], [0.9, 0.1]])
    blocks = Selection(0.2, 2).left_out(shares)
    whole = Selection(0.2, 2, whole=True).left_out(shares)
    assert blocks == {0: frozenset({0}), 1: frozenset({2})}
    assert whole == {0: frozenset(), 1: frozenset({0, 1, 2})}


# ------------------------------------------------------------------ files
def test_a_biased_aggregator_comes_back(tmp_path):
    biased = random_aggregator(small_config(identity_bias=True))
    save_aggregator(biased, tmp_path / "biased.safetensors")
    loaded = load_aggregator(tmp_path / "biased.safetensors")
    assert loaded.config == biased.config
    assert [key for key in loaded.state if key.endswith("identity_bias")] == [
        "aggregators.0.identity_bias", "aggregators.1.identity_bias",
    ]  # fmt: skip
    assert all(torch.equal(loaded.state[key], biased.state[key]) for key in biased.state)


def test_a_file_as_published_has_no_new_fields():
    assert not {"identity_bias", "fused"} & set(small_config().to_json())
    assert AggregatorConfig.from_json(small_config().to_json()) == small_config()


@pytest.mark.parametrize("value", [1, "yes", None, [True]])
def test_an_identity_bias_that_cannot_be(value):
    with pytest.raises(ConfigError, match="identity_bias should be true or false"):
        AggregatorConfig.from_json({**small_config().to_json(), "identity_bias": value})


@pytest.mark.parametrize("value", [torch.tensor(float("nan")), torch.zeros(1)])
def test_a_scalar_that_cannot_be(tmp_path, value):
    biased = random_aggregator(small_config(identity_bias=True))
    biased.state["aggregators.1.identity_bias"] = value
    with pytest.raises(AggregatorError, match=r"biased\.safetensors"):
        save_aggregator(biased, tmp_path / "biased.safetensors")


def test_points_that_leave_experts_alone_are_dropped():
    """0.995 of the weight at equal logits: a bias of 5.3 for two experts."""
    file = random_aggregator(small_config(identity_bias=True))
    for index, bias in ((0, 5.4), (1, 5.2)):
        file.state[f"aggregators.{index}.identity_bias"] = torch.tensor(bias)
    config, state = pruned(file.config, file.state)
    assert config.fused == (1, 2)
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == dict(config.shapes())
    assert pruned(config, state) == (config, state)


# ------------------------------------------------------------------ training
SETTINGS = TrainingSettings(12, 2, learning_rate=3e-3, warmup_steps=2, evaluate_every=5, ema=0.9)


def a_task(drop_points: bool = False, bias: float = 0.0) -> AggregatorTask:
    """bias: of the first point"""
    config = dataclasses.replace(CONFIG, identity_bias=True)
    sources = [{"file": "a"}, {"file": "b"}]
    task = AggregatorTask(ToyExperts(), config, sources, AggregatorSettings(drop_points=drop_points), 0)
    task.module.point(0).identity_bias.data.fill_(bias)
    return task


def train(folder, steps: int, listen=lambda report: None, task: AggregatorTask | None = None):
    settings = dataclasses.replace(SETTINGS, steps=steps)
    return fit(task or a_task(), toy_dataset(), settings, Keeping(folder / "toy.safetensors", save_every=3), listen)


@pytest.mark.parametrize("how", [{}, {"drop_points": True, "bias": 5.4}])
def test_a_training_with_biases_goes_on_to_the_same_numbers(tmp_path, how):
    def stop(report):
        if report.state.step == 7:
            raise Stop

    file, state = train(tmp_path / "whole", 12, task=a_task(**how))
    train(tmp_path / "stopped", 12, stop, task=a_task(**how))
    again, resumed = train(tmp_path / "stopped", 12, task=a_task(**how))
    assert resumed.losses == state.losses
    assert all(torch.equal(file.state[key], again.state[key]) for key in file.state)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_training_that_is_stopped_when_a_point_is_dropped_goes_on_to_the_same_numbers(tmp_path, at):
    """A step goes by the biases before the last one, which the weights no longer tell."""
    watched = []

    def stop(report):
        if report.state.step == at:
            raise Stop

    def growing():
        task = a_task(True, 5.0)
        task.module.point(0).identity_bias.register_hook(lambda gradient: -gradient.abs())
        return task

    _, state = train(tmp_path / "whole", 6, lambda report: watched.append(report.state.watched[0]), growing())
    assert watched[0] < 5.29 < watched[-1]
    train(tmp_path / "stopped", 6, stop, growing())
    _, resumed = train(tmp_path / "stopped", 6, task=growing())
    assert resumed.losses == state.losses


@pytest.mark.parametrize(("bias", "kept"), [(5.4, (1, 2)), (5.2, (0, 1, 2))])
def test_a_point_that_leaves_experts_alone_is_dropped_from_the_training(tmp_path, bias, kept):
    task = a_task(True, bias)
    before = {key: tensor.clone() for key, tensor in task.module.named_parameters()}
    file, _ = train(tmp_path, 3, task=task)
    changed = [key for key, tensor in task.module.named_parameters() if not torch.equal(tensor, before[key])]
    assert {int(key.split(".")[1]) for key in changed if key.startswith("aggregators.")} == {*kept}
    assert tuple(file.config.fused_points) == kept
    assert file.routing["points"] == [task.experts.points[i].name for i in kept]


def test_biases_have_a_rate_of_their_own(tmp_path):
    """AdamW's first step is the learning rate, whatever the gradient; the warm-up halves it here."""
    train(tmp_path, 1)
    last = load_aggregator(tmp_path / "toy-last.safetensors")
    biases = [abs(t.item()) for key, t in last.state.items() if key.endswith("identity_bias")]
    # The young average of weights has gone (1 - 2/11) of the way.
    assert biases == pytest.approx([RATE_OF_SCALARS * 3e-3 / 2] * 2, rel=0.25)
