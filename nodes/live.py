"""What nodes tell the browser while they run: routing step by step, training as it goes."""

from __future__ import annotations

import base64
import io
import logging
import math
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from server import PromptServer

from ..afa_core.atomic_file import SavingError
from ..afa_core.routing.record import Evaluation, RoutingRun
from ..afa_core.routing.wire import wire_header, wire_run, wire_step
from .kept import keep, kept

ROUTING, TRAINING = "afa.routing", "afa.training"
MESSAGES_A_SECOND = 4
CURVE_POINTS = 2000
SAMPLE_SIDE = 256
SAMPLES = 4
MEASURED = ("held_out", "best_single", "block_average", "shares")


def running_server() -> PromptServer | None:
    """The host's server; None where ComfyUI is embedded as a library."""
    return getattr(PromptServer, "instance", None)


def send(event: str, data: dict[str, Any]) -> None:
    """To the browser that queued the graph, or to all where that is not known; to none without a server.

    Errors are logged, no more: a view is worth neither a render nor a training.
    """
    server = running_server()
    if server is None:
        return
    try:
        server.send_sync(event, data, server.client_id)
    except Exception as error:
        logging.warning(f"AFA: the browser cannot be notified of {event}: {error!r}")


def routing_listener(node_id: str | None) -> Callable[[RoutingRun, int, list[Evaluation]], None]:
    """Sends each step of an ensemble's runs, under the id of the ensemble's node."""

    def tell(run: RoutingRun, step: int, evaluations: list[Evaluation]) -> None:
        send(ROUTING, {"source": node_id, "step": step, **wire_header(run), **wire_step(run, evaluations)})

    return tell


def keep_routing(run: RoutingRun, picture, workflow: str, node_id: str) -> dict[str, str]:
    """Keeps a run, and the decoded picture [H, W, 3] or None, for the viewer; gives the address it asks for."""
    keep(ROUTING, workflow, node_id, {**wire_run(run), "picture": None if picture is None else data_url(picture, 768)})
    return {"workflow": workflow, "node": node_id, "run": uuid.uuid4().hex}


def data_url(picture, side: int) -> str:
    """A picture, [H, W, 3] in 0..1 or of PIL, as a small JPEG in a data: address."""
    from PIL import Image

    if not isinstance(picture, Image.Image):
        pixels = (picture.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
        picture = Image.fromarray(pixels[..., :3])
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


class TrainingFeed:
    """One training run as its node's view sees it: messages, the curve so far, and the Stop button."""

    def __init__(self, node_id: str | None, experts: list[str], steps: int, workflow: str = ""):
        self.node_id = str(node_id)
        self.workflow = workflow
        self.header = {"node": self.node_id, "run": uuid.uuid4().hex, "experts": list(experts), "steps": steps}
        self.state = "training"
        self.latest: dict[str, Any] = {}
        self.history: list[list[Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.stop_requested = False
        self._sent = -math.inf
        FEEDS[self.node_id] = self
        self.send(step=0)

    def send(self, step: int, sample=None, **values: Any) -> None:
        """values: loss, held_out, best_single, block_average, shares, seconds_per_step, message; where measured."""
        values = {name: _finite(value) for name, value in values.items() if value is not None}
        self.latest.update(values, step=step)
        if any(name in values for name in ("loss", *MEASURED)):
            self.history.append([step, *(values.get(name) for name in ("loss", *MEASURED))])
            if len(self.history) > CURVE_POINTS:
                self.history = [
                    row for i, row in enumerate(self.history) if i % 2 or any(v is not None for v in row[2:])
                ]
        if sample is not None:
            values["sample"] = data_url(sample, SAMPLE_SIDE)
            self.samples = [*self.samples, {"step": step, "sample": values["sample"]}][-SAMPLES:]
        rare = sample is not None or "message" in values or any(name in values for name in MEASURED)
        if rare or time.monotonic() - self._sent >= 1 / MESSAGES_A_SECOND:
            self._sent = time.monotonic()
            send(TRAINING, {**self.header, "state": self.state, "step": step, **values})
        if "held_out" in values:
            self._keep()

    def stop(self) -> bool:
        """Asks the loop to end after this step; False where it has ended already."""
        if self.state == "done":
            return False
        self.stop_requested, self.state = True, "stopping"
        self.send(self.latest.get("step", 0), message="stopping after this step, and saving")
        return True

    def finish(self, message: str | None = None) -> None:
        if self.state != "done":
            self.state = "done"
            self.send(self.latest.get("step", 0), message=message or "ended early; queue the graph again to go on")
            self._keep()

    def snapshot(self) -> dict[str, Any]:
        """Everything a view needs that was not there from the start."""
        return {**self.header, **self.latest, "state": self.state, "history": self.history, "samples": self.samples}

    def _keep(self) -> None:
        with suppress(SavingError):  # a view is not worth a training; its own files say when the disk is full
            keep(TRAINING, self.workflow, self.node_id, self.snapshot())


FEEDS: dict[str, TrainingFeed] = {}
"""The last training of each node, for views that are opened later; a handful, since so few nodes train."""


def last_training(workflow: str, node_id: str) -> dict[str, Any] | None:
    """The training that a node of a workflow runs or ran last, also before ComfyUI was started again."""
    feed = FEEDS.get(node_id)
    if feed is not None and feed.workflow == workflow:
        return feed.snapshot()
    snapshot = kept(TRAINING, workflow, node_id)
    if snapshot and snapshot["state"] != "done":
        snapshot |= {"state": "done", "message": "ComfyUI was closed; queue the graph again to go on"}
    return snapshot


def _finite(value: Any) -> Any:
    """JSON has no NaN: a browser would refuse the whole message."""
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
