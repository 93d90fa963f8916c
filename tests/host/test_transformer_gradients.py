"""Gradients through the host's transformers, which were written for sampling: right, and the same when recomputed."""

import pytest
import torch

from tests.support import transformers
from tests.support.transformers import Case, load

TOYS = [toy for toy in transformers.TOYS if toy != "tiny_schnell_a"]
"""Schnell is Flux.1 without guidance."""


@pytest.fixture(scope="module", params=TOYS)
def case(request, comfy_host) -> Case:
    from afa_core.host.training.frozen_experts import make_trainable

    loaded = load(comfy_host, request.param)
    with torch.inference_mode(False):
        make_trainable(loaded.model)
        loaded.model.requires_grad_(False)
    return loaded


def prediction(case: Case, moves: dict, checkpointing=False) -> torch.Tensor:
    """With something added to what is sent at some fusion points, by index."""
    from comfy.ldm.modules.attention import attention_pytorch

    from afa_core.fusion.fusion import FusionState
    from afa_core.fusion.lockstep import lockstep
    from afa_core.host.training.frozen_experts import outside_inference

    def fusion(point, features, state):
        return [features[0] + moves[point.index]] if point.index in moves else features

    options = {"optimized_attention_override": lambda f, *a, **k: attention_pytorch(*a, **k)}
    with outside_inference():
        inputs = case.named(case.inputs(size=(4, 6), batch=1, tokens=3), None, options)
        stream, embeddings = case.architecture.stream(case.model, inputs, checkpointing=checkpointing)
        return lockstep([stream], case.points, fusion, FusionState([embeddings]))


def moves_of(case: Case, scale=0.0) -> dict:
    """At the first, a middle and the last block."""
    last = len(case.points) - 2
    generator = torch.Generator().manual_seed(3)
    return {i: scale * torch.randn(1, case.points[i].channels, 2, 3, generator=generator) for i in (0, last // 2, last)}


def gradients(case: Case, checkpointing=False):
    from afa_core.host.training.frozen_experts import outside_inference

    with outside_inference():  # a block that is computed again must be the one of the forward pass
        moves = {i: move.clone().requires_grad_() for i, move in moves_of(case).items()}
        loss = prediction(case, moves, checkpointing).square().sum()
        return loss, torch.autograd.grad(loss, list(moves.values()))


def test_gradients_agree_with_finite_differences(case):
    _, found = gradients(case)
    step = 1e-2
    directions = moves_of(case, 1.0)
    for index, gradient in zip(directions, found, strict=True):
        sides = [prediction(case, {index: s * step * directions[index]}).square().sum() for s in (1, -1)]
        slope = (sides[0] - sides[1]).item() / (2 * step)
        assert slope == pytest.approx((gradient * directions[index]).sum().item(), rel=1e-2, abs=1e-2)


def test_recomputed_equals_plain(case):
    loss, found = gradients(case)
    again, recomputed = gradients(case, checkpointing=True)
    assert torch.equal(loss, again)
    for one, other in zip(found, recomputed, strict=True):
        assert torch.equal(one, other)


def test_recomputing_keeps_less(case, monkeypatch):
    """A backward pass of plain blocks keeps many times what their inputs take."""
    from afa_core.host.architectures import block_thread

    enter = block_thread._modes
    kept: list[int] = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    def entering(device):
        def modes():
            stack = enter(device)()
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
            return stack

        return modes

    monkeypatch.setattr(block_thread, "_modes", entering)
    totals = []
    for checkpointing in (False, True):
        kept.clear()
        with torch.inference_mode(False), torch.enable_grad():
            move = torch.zeros(1, case.points[0].channels, 2, 3, requires_grad=True)
            prediction(case, {0: move}, checkpointing)
        totals.append(sum(kept))
    assert totals[1] < 0.3 * totals[0]
