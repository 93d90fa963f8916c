"""The routing panels: the colours mean what the viewer's do (tests/js/routing.test.mjs has the same numbers)."""

import pytest
import torch

from afa_core.host.architectures.unet_layout import unet_points
from afa_core.routing.panels import clearest, leads, routing_panels
from afa_core.routing.record import RoutingRecord


def flat(*shares, side=32):
    return torch.tensor(shares)[:, None, None].repeat(1, side, side)


@pytest.mark.parametrize(
    ("shares", "full", "expected"),
    [
        ([0.75, 0.25], 1.0, [0.5, 0.0]),
        ([0.75, 0.25], 0.75, [1.0, 0.0]),
        ([0.5, 0.5], 0.51, [0.0, 0.0]),
        ([0.5, 0.5, 0.0], 0.5, [1.0, 1.0, 0.0]),
    ],
)
def test_strength_is_the_lead_over_an_even_share(shares, full, expected):
    assert leads(flat(*shares), full)[:, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_colours_are_full_where_the_run_is_clearest_and_never_for_next_to_nothing():
    maps = flat(0.5, 0.3, 0.2)
    maps[2].view(-1)[:40] = 0.6  # 4 % of the places
    assert clearest(maps) == pytest.approx(0.6)
    maps[2].view(-1)[:5] = 0.9  # less than 2 %
    assert clearest(maps) == pytest.approx(0.6)
    assert clearest(flat(0.5, 0.5)) == pytest.approx(0.525)


def test_maps_are_those_of_the_first_picture_of_the_prompt():
    run = RoutingRecord().begin(["a", "b"], unet_points(64, [1], [1], 1))
    evaluation = run.evaluate(torch.ones(3), [False, True, True])
    shares = torch.stack([flat(0.5, 0.5, side=8), flat(0.8, 0.2, side=8), flat(0.1, 0.9, side=8)])
    evaluation.observe(run.points[-1], shares)
    evaluation.end()
    run.finish(None)
    assert run.mean_map()[0].unique().tolist() == pytest.approx([0.8], abs=1e-2)
    assert run.shares_by_point()[0].tolist() == pytest.approx([0.45, 0.55], abs=1e-2)


def test_panels_colour_the_leader_and_leave_the_others_grey():
    points = unet_points(64, [1, 1, 1, 1], [2, 2, 2, 2], 1)
    run = RoutingRecord().begin(["a", "b"], points)
    evaluation = run.evaluate(torch.ones(1), [True])
    for point in points:
        evaluation.observe(point, flat(0.8, 0.2, side=8)[None])
    evaluation.end()
    run.finish(None)
    panels = routing_panels(run, torch.rand(64, 64, 3))
    assert panels.shape[0] == 1 and panels.shape[-1] == 3
    height, width = panels.shape[1:3]
    left, right = panels[0, height // 4, width // 4], panels[0, height // 4, 3 * width // 4]
    assert left[2] - left[0] > 0.4  # blue
    assert right.max() - right.min() < 0.02
