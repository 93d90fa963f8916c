"""The viewer's data: within its budget, right to a 255th, and what the summary's JSON says."""

import base64
import json

import pytest
import torch

from afa_core.host.architectures.unet_layout import unet_points
from afa_core.routing.record import RoutingRecord, averages
from afa_core.routing.wire import STEP_BYTES, wire_header, wire_run, wire_step

POINTS = unet_points(320, [1, 2, 4, 4], [2, 2, 2, 2], 4)


def sampled(experts=3, size=64, steps=3, batch=2, on_step=None):
    """A run over random shares: prompt and negative batched together, `batch` pictures each."""
    torch.manual_seed(0)
    record = RoutingRecord()
    record.on_step = on_step
    run = record.begin([f"expert {i}" for i in range(experts)], POINTS)
    for step in range(steps):
        run.next_step()
        evaluation = run.evaluate(torch.tensor([10.0 - step]), [True] * batch + [False] * batch)
        for point in POINTS:
            side = size // point.stride
            evaluation.observe(point, torch.randn(2 * batch, experts, side, side).softmax(1))
        evaluation.end()
    run.finish(None)
    return run


def maps_of(side, experts):
    """[points][N - 1, h, w] as the browser decodes them."""
    data, maps = base64.b64decode(side["maps"]), []
    for h, w in side["sizes"]:
        count = (experts - 1) * h * w
        maps.append(torch.tensor(list(data[:count])).reshape(experts - 1, h, w) / 255)
        data = data[count:]
    assert not data
    return maps


def test_a_step_is_told_once_it_has_ended_and_not_before():
    reports = []
    run = sampled(on_step=lambda run, step, evaluations: reports.append((step, [e.sigma for e in evaluations])))
    assert reports == [(0, [10.0]), (1, [9.0]), (2, [8.0])]
    assert len(run.steps) == 3


def test_a_step_has_the_number_that_it_has_in_the_run_s_steps():
    """Steps that only one expert made, as before the start percent, do not count, before or in between."""
    record, numbers = RoutingRecord(), []
    record.on_step = lambda run, step, evaluations: numbers.append((step, evaluations[0].sigma))
    run = record.begin(["a", "b"], POINTS)
    for sigma, fused in [(9.0, False), (8.0, True), (7.0, False), (6.0, True), (5.0, True)]:
        run.next_step()
        if fused:
            evaluation = run.evaluate(torch.tensor([sigma]), [True])
            evaluation.observe(POINTS[-1], torch.tensor([0.25, 0.75]).view(1, 2, 1, 1))
            evaluation.end()
    run.finish(None)
    assert numbers == [(i, sigma) for i, (sigma, _) in enumerate(run.steps)] == [(0, 8.0), (1, 6.0), (2, 5.0)]


def test_the_messages_of_two_runs_are_told_apart():
    record = RoutingRecord()
    first, second = (wire_header(record.begin(["a", "b"], POINTS)) for _ in range(2))
    assert first.pop("run") != second.pop("run")
    assert first == second


def test_an_error_of_the_listener_is_logged_once_and_ends_nothing(caplog):
    calls = []

    def fail(run, step, evaluations):
        calls.append(step)
        raise RuntimeError("no such browser")

    run = sampled(on_step=fail)
    assert len(run.steps) == 3 and calls == [0]
    assert "the routing viewer is not updated" in caplog.text and "no such browser" in caplog.text


@pytest.mark.parametrize(("experts", "size"), [(2, 64), (3, 64), (8, 128)])
def test_a_step_is_light(experts, size):
    run = sampled(experts, size, steps=1)
    step = wire_step(run, run.evaluations)
    data = sum(len(base64.b64decode(step[side]["maps"])) for side in ("prompt", "negative"))
    assert 0 < data <= max(STEP_BYTES, 2 * (experts - 1) * len(POINTS) * 16)
    assert len(json.dumps(step)) < 20_000


def test_maps_are_the_first_picture_s_and_shares_the_batch_s():
    run = sampled(size=8)
    step = wire_run(run)["steps"][1]
    evaluation = run.evaluations[1]
    for name, rows in (("prompt", [0, 1]), ("negative", [2, 3])):
        maps = maps_of(step[name], 3)
        for i, expected in evaluation.maps.items():
            assert torch.allclose(maps[i], expected[rows[0], :2].float(), atol=0.003)
        for i in range(len(POINTS)):
            assert torch.allclose(torch.tensor(step[name]["shares"][i]), evaluation.shares[i][rows].mean(0), atol=1e-4)


def test_shares_average_to_the_summary_s():
    run = sampled()
    steps, summary = wire_run(run)["steps"], run.summary()
    by_step = [torch.tensor(step["prompt"]["shares"]).mean(0) for step in steps]
    assert torch.allclose(torch.stack(by_step), torch.tensor(summary["prompt"]["by_step"]), atol=1e-3)


def test_fixed_shares_have_no_maps():
    run = RoutingRecord().begin(["a", "b"], POINTS)
    evaluation = run.evaluate(torch.ones(1), [True])
    evaluation.observe(POINTS[-1], torch.tensor([0.25, 0.75]).view(1, 2, 1, 1))
    evaluation.end()
    run.finish(None)
    (step,) = wire_run(run)["steps"]
    assert step["prompt"] == {"points": [24], "shares": [[0.25, 0.75]], "sizes": [[0, 0]], "maps": ""}
    assert "negative" not in step


@pytest.mark.parametrize(("height", "width"), [(48, 32), (64, 64), (152, 104), (33, 7)])
def test_averages_by_products_are_those_of_adaptive_pooling(height, width):
    """For Apple's devices, which pool sizes that divide alone."""
    maps, size = torch.randn(2, 3, height, width), (min(height, 32), min(width, 32))
    rows, columns = averages(height, size[0], torch.device("cpu")), averages(width, size[1], torch.device("cpu"))
    expected = torch.nn.functional.adaptive_avg_pool2d(maps, size)
    torch.testing.assert_close(rows @ maps @ columns.T, expected, rtol=1e-5, atol=1e-6)
