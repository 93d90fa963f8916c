"""The two nodes of AFA Compare's own in the graph it expands into: they time the sampling, and gather the pictures."""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io, ui

from ..afa_core.comparison.grid import picture_grid
from ..afa_core.comparison.table import Row, markdown, table
from ..afa_core.host.scoring.scorers import scores_of
from .kept import COMPARISON, keep
from .sockets import schema

ClockType = io.Custom("AFA_CLOCK")
PicturesType = io.Custom("AFA_PICTURES")


class AFACompareClock(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFACompareClock",
            display_name="AFA Compare Clock",
            description="A part of Compare AFA Methods: measures how long a model samples.",
            search_aliases=["time"],
            inputs=[
                io.Model.Input("model", tooltip="The model to measure."),
                io.String.Input("timed", default="", tooltip="What is sampled: another setting is measured anew."),
            ],
            outputs=[io.Model.Output(display_name="model"), ClockType.Output(display_name="clock")],
            is_deprecated=True,  # not for hand-made graphs; front ends of every age hide what is
        )

    @classmethod
    def execute(cls, model, timed: str) -> io.NodeOutput:
        seconds: dict[int, float] = {}

        def measured(executor, guider, sigmas, extra_args, *args, **kwargs):
            begin = time.perf_counter()
            samples = executor(guider, sigmas, extra_args, *args, **kwargs)
            samples.flatten()[:1].cpu()  # waits for the device, once a picture
            seconds[extra_args["seed"]] = time.perf_counter() - begin
            return samples

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "afa_clock", measured)
        return io.NodeOutput(model, seconds)


class AFACompareGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFACompareGrid",
            display_name="AFA Compare Grid",
            description="A part of Compare AFA Methods: gathers the pictures into a grid and a table.",
            search_aliases=["grid"],
            inputs=[io.String.Input("layout", default="", tooltip="Methods and seeds, as JSON; the pictures come on sockets of their own.")],
            outputs=[
                io.Image.Output(display_name="grid"),
                PicturesType.Output(display_name="pictures"),
                io.String.Output(display_name="table"),
            ],
            is_deprecated=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, layout: str, **sockets) -> io.NodeOutput:
        """sockets: picture_{row}_{column} and clock_{row}_{stage}."""
        plan = json.loads(layout)
        methods, seeds = plan["methods"], plan["seeds"]
        pictures = [[sockets[f"picture_{r}_{c}"] for c in range(len(seeds))] for r in range(len(methods))]
        clocks = [[sockets[f"clock_{r}_{i}"] for i in range(m["stages"])] for r, m in enumerate(methods)]
        scores, faults = _scores(pictures, plan["prompt"]) if plan["scorers"] else ([{} for _ in methods], [])
        rows = [
            Row(m["name"], m["networks"], _seconds(clock, seeds), score)
            for m, clock, score in zip(methods, clocks, scores, strict=True)
        ]
        names = [m["name"] for m in methods]
        grid = picture_grid([[picture[0] for picture in row] for row in pictures], names, [f"seed {s}" for s in seeds])
        cells = table(rows)
        shown = {
            "methods": [{"key": m["key"], "name": m["name"]} for m in methods],
            "seeds": seeds, "prompt": plan["prompt"], "subject": plan["subject"], "table": cells,
            "grid": _saved(cls, grid), "pictures": [[_saved(cls, picture) for picture in row] for row in pictures],
        }  # fmt: skip
        keep(COMPARISON, plan["place"]["workflow"], plan["place"]["node"], shown)
        flat = [picture for row in pictures for picture in row]
        lines = "\n\n".join([markdown(cells), *faults])
        return io.NodeOutput(grid, flat, lines, ui={"afa_comparison": [plan["place"]]})


def _seconds(clocks: list[dict[int, float]], seeds: list[int]) -> list[float]:
    return [sum(clock[seed] for clock in clocks) for seed in seeds if all(seed in clock for clock in clocks)]


def _scores(pictures: list[list[torch.Tensor]], prompt: str) -> tuple[list[dict[str, list[float]]], list[str]]:
    """By row, one number a picture of every scorer whose files are there; and what is wrong with some files."""
    columns = len(pictures[0])
    everything = torch.cat([picture for row in pictures for picture in row])
    found, faults = scores_of(everything, prompt)
    rows = [
        {name: values[row * columns : (row + 1) * columns] for name, values in found.items()}
        for row in range(len(pictures))
    ]
    return rows, faults


def _saved(cls: type[io.ComfyNode], picture: torch.Tensor) -> dict[str, Any]:
    """Where the browser finds a picture [1, H, W, 3] among the host's temporary files."""
    (place,) = ui.PreviewImage(picture, cls=cls).values
    return dict(place)
