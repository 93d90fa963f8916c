"""A template and variants of it on a live server: what they paint, and where which expert is followed."""

import base64
import io

import torch
import torch.nn.functional as F
from PIL import Image

from tests.support.comfy.server import LiveServer
from tests.support.comfy.templates import Prompt, alone, find, template, with_values
from tests.tools.demo import PROMPT, SAMPLING, SIZE

STEPS = 12
VALUES = {
    "Prompt": {"text": PROMPT},
    "Negative prompt": {"text": ""},
    "EmptyLatentImage": SIZE,
    "KSampler": {**SAMPLING, "steps": STEPS, "seed": 1},
    "AFACompare": {
        "prompt": PROMPT, "negative": "", **SIZE, "seeds": "1", "steps": STEPS, **SAMPLING, "scores": False, "step_switch": False,
        "block_average": False, "magic_fusion": False,
    },
    "AFAScoreImages": {"prompt": PROMPT},
}  # fmt: skip


class Runner:
    def __init__(self, server: LiveServer, name: str):
        self.server = server
        self.prompt = with_values(template(name, server.get("/object_info")), VALUES)

    def saved(self, prompt: Prompt | None = None) -> Image.Image:
        """What the template's only SaveImage has saved."""
        prompt = prompt or self.prompt
        (node,) = find(prompt, "SaveImage")
        (picture,) = self.pictures(self.server.run(prompt, timeout=3000), node)
        return picture

    def alone(self, kind: str) -> list[Image.Image]:
        """Each expert's own picture, by itself, from the loaders of a kind."""
        return [self.saved(alone(self.prompt, loader)) for loader in find(self.prompt, kind)]

    def shown(self, source: list) -> list[Image.Image]:
        """The pictures that an output gives, which the template itself may leave unconnected."""
        shown = {"class_type": "PreviewImage", "inputs": {"images": source}, "_meta": {"title": "shown"}}
        return self.pictures(self.server.run({**self.prompt, "shown": shown}, timeout=3000), "shown")

    def pictures(self, history: dict, node: str) -> list[Image.Image]:
        return [Image.open(io.BytesIO(data)).convert("RGB") for data in self.server.images(history, node)]

    def routing(self) -> torch.Tensor:
        """Shares by position [N, h, w] of the last run, averaged over steps and fusion points, the prompt's side."""
        (node,) = find(self.prompt, "AFARoutingMaps")
        return mean_map(self.server.get(f"/afa/routing?workflow=&node={node}"))


def mean_map(run: dict) -> torch.Tensor:
    """As RoutingRun.mean_map, of what the viewer in the browser gets (afa_core/routing/wire.py)."""
    maps = [found for step in run["steps"] for found in _decoded(step["prompt"], len(run["experts"]))]
    size = max((tuple(found.shape[1:]) for found in maps), key=lambda hw: hw[0] * hw[1])
    return torch.stack([F.interpolate(found[None], size, mode="bilinear")[0] for found in maps]).mean(0)


def _decoded(side: dict, experts: int) -> list[torch.Tensor]:
    """[N, h, w] of every fusion point where shares vary; the last expert's are what is missing to 1."""
    data, found = torch.frombuffer(bytearray(base64.b64decode(side["maps"])), dtype=torch.uint8) / 255, []
    for height, width in side["sizes"]:
        count = (experts - 1) * height * width
        part, data = data[:count].view(experts - 1, height, width), data[count:]
        if count:
            found.append(torch.cat([part, 1 - part.sum(0, keepdim=True)]))
    return found
