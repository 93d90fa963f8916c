"""The HTTP routes that the front end requests."""

from __future__ import annotations

from aiohttp import web

from ..afa_core.aggregator.summary import read_summary
from ..afa_core.host.files import aggregator_names, aggregator_path
from .kept import keep_choices, kept, kept_comparison
from .live import ROUTING, last_training, running_server, stop_training


def register_routes() -> None:
    server = running_server()
    if server is None:
        return
    routes = server.routes
    routes.get("/afa/aggregator")(aggregator)
    routes.get("/afa/routing")(routing)
    routes.get("/afa/training")(training)
    routes.post("/afa/training/stop")(stop)
    routes.get("/afa/comparison")(comparison)
    routes.post("/afa/comparison/choices")(choices)


async def aggregator(request: web.Request) -> web.Response:
    """What an aggregator's header says; only names in the list are read, so that no path gets in."""
    name = request.query.get("name", "")
    if name not in aggregator_names():
        return web.json_response({"error": f"{name:.200} is not in models/afa."})
    try:
        return web.json_response(read_summary(aggregator_path(name)))
    except (ValueError, FileNotFoundError) as error:  # the latter for one that was deleted just now
        return web.json_response({"error": str(error)})


async def routing(request: web.Request) -> web.Response:
    """The last result of a viewer; null where there is none."""
    return web.json_response(kept(ROUTING, *_place(request)))


async def training(request: web.Request) -> web.Response:
    """The training that a node runs or ran last; null where it has not trained."""
    return web.json_response(last_training(*_place(request), request.query.get("client", "")))


def _place(request: web.Request) -> tuple[str, str]:
    """The workflow and the node that are requested."""
    return request.query.get("workflow", ""), request.query.get("node", "")


async def stop(request: web.Request) -> web.Response:
    """Stops one run, by the id that its messages carry: no other of the same node or workflow."""
    try:
        run = str((await request.json())["run"])
    except (ValueError, LookupError, TypeError, RecursionError):  # no JSON, no such encoding, no object, too deep
        return web.json_response({"error": "expected {run: id}"}, status=400)
    return web.json_response({"stopping": stop_training(run)})


async def comparison(request: web.Request) -> web.Response:
    """The last comparison of a node and the blind choices made on it; null where there is none."""
    return web.json_response(kept_comparison(*_place(request)))


async def choices(request: web.Request) -> web.Response:
    """Keeps the blind choices of a node's view, beside those of other pages."""
    try:
        data = await request.json()
        workflow, node = str(data["workflow"]), str(data["node"])
        subject, made = list(data["subject"]), list(data["choices"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return web.json_response({"error": "expected {workflow: id, node: id, subject: [...], choices: [...]}"}, status=400)
    return web.json_response({"kept": keep_choices(workflow, node, subject, made)})
