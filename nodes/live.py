"""What nodes send to the browser while they run: attention maps step by step, training as it goes."""

from __future__ import annotations

import base64
import io
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from server import PromptServer

from ..afa_core.routing.record import Evaluation, RoutingRun
from ..afa_core.routing.wire import wire_header, wire_run, wire_step
from .kept import keep, kept, workflow_id

ROUTING, TRAINING = "afa.routing", "afa.training"
MESSAGES_A_SECOND = 4
CURVE_POINTS = 2000
SAMPLE_SIDE = 256
SAMPLES = 4
MEASURED = ("held_out", "shares")


def running_server() -> PromptServer | None:
    """The host's server; None where ComfyUI is embedded as a library."""
    return getattr(PromptServer, "instance", None)


def is_heard() -> bool:
    """Whether a browser is connected that `send` would reach."""
    server = running_server()
    if server is None:
        return False
    return bool(server.sockets) if server.client_id is None else server.client_id in server.sockets


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


def running_workflow() -> str:
    """The id of the workflow whose graph runs: an ensemble that comes from the host's cache was made for another, perhaps."""
    server = running_server()
    running = server.prompt_queue.get_current_queue_volatile()[0] if server else []
    return workflow_id(running[0][3].get("extra_pnginfo")) if running else ""


def routing_listener(node_id: str | None) -> Callable[[RoutingRun, int, list[Evaluation]], None]:
    """Sends each step of an ensemble's runs, under the id of the ensemble's node, where a browser is connected."""

    def report(run: RoutingRun, step: int, evaluations: list[Evaluation]) -> None:
        if is_heard():
            place = {"workflow": running_workflow(), "source": node_id}
            send(ROUTING, {**place, "step": step, **wire_header(run), **wire_step(run, evaluations)})

    return report


def keep_routing(run: RoutingRun, picture, workflow: str, node_id: str) -> dict[str, str]:
    """Keeps a run, and the decoded picture [H, W, 3] or None, for the viewer; gives the address that it requests."""
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
    """One training run as its node's view sees it: messages, the curve so far, and the Stop button.

    state: "training", then "stopping" where the button was pressed, then "done" for good
    """

    latest_of_all: TrainingFeed | None = None
    """The training that runs, or ran last: the host runs one graph at a time."""

    def __init__(self, node_id: str | None, experts: list[str], steps: int, workflow: str = ""):
        self.node_id = str(node_id)
        self.workflow = workflow
        self.run = uuid.uuid4().hex
        self.client = getattr(running_server(), "client_id", None)
        self.header = {
            "node": self.node_id, "workflow": workflow, "run": self.run, "experts": list(experts), "steps": steps,
        }  # fmt: skip
        self.state = "training"
        self._lock = threading.RLock()  # the button is pressed in the server's thread
        self.latest: dict[str, Any] = {}
        self.history: list[list[Any]] = []
        self.samples: list[dict[str, Any]] = []
        self._sent = -math.inf
        TrainingFeed.latest_of_all = self
        self.send(step=0)

    def send(self, step: int, sample=None, **values: Any) -> None:
        """values: loss, held_out, rivals, shares, seconds_per_step, message; where measured.

        rivals: losses of what needs no training, by the names that the view shows
        """
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
        """Lets the loop end after this step; False where it has ended already."""
        with self._lock:
            if self.state == "done":
                return False
            self.state = "stopping"
            self.send(self.latest.get("step", 0), message="stopping after this step, and saving")
            return True

    @property
    def stop_requested(self) -> bool:
        return self.state == "stopping"

    def finish(self, message: str | None = None) -> None:
        with self._lock:
            if self.state == "done":
                return
            self.state = "done"
            self.send(self.latest.get("step", 0), message=message or "ended before the last step: correct the error, if there is one, and queue the graph again to go on")
            self._keep()

    def is_shown_to(self, client: str) -> bool:
        """Whether a page shows this run: the one that queued it; another only once that is gone, or it is done."""
        server = running_server()
        return self.state == "done" or self.client == client or server is None or self.client not in server.sockets

    def snapshot(self) -> dict[str, Any]:
        """Everything a view needs that was not there from the start."""
        return {**self.header, **self.latest, "state": self.state, "history": self.history, "samples": self.samples}

    def _keep(self) -> None:
        keep(TRAINING, self.workflow, self.node_id, self.snapshot())


def last_training(workflow: str, node_id: str, client: str) -> dict[str, Any] | None:
    """The training that a node of a workflow runs or ran last, also before ComfyUI was started again.

    None to a page while the training that another one queued still runs.
    """
    feed = TrainingFeed.latest_of_all
    if feed is not None and (feed.workflow, feed.node_id) == (workflow, node_id):
        return feed.snapshot() if feed.is_shown_to(client) else None
    snapshot = kept(TRAINING, workflow, node_id)
    if snapshot and snapshot["state"] != "done":
        snapshot |= {"state": "done", "message": "ComfyUI was closed; queue the graph again to go on"}
    return snapshot


def stop_training(run: str) -> bool:
    """Ends a training after its step; False where it does not run (any more)."""
    feed = TrainingFeed.latest_of_all
    return feed is not None and feed.run == run and feed.stop()


def _finite(value: Any) -> Any:
    """JSON has no NaN: a browser would refuse the whole message."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
