"""What the viewers showed last outlives a restart of ComfyUI, a crash in the middle of a training included."""

import json
import urllib.parse

import pytest

from tests.browser.graphs import put_aggregator, routing_graph
from tests.live.test_training import workflow
from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.checkpoints import ensure_checkpoints
from tests.support.comfy.events import Events
from tests.support.comfy.server import LiveServer
from tests.support.faults import full_disk
from tests.support.stand_ins import pictures

EXPERTS = ["tiny_sd15_a.safetensors", "tiny_sd15_b.safetensors"]
MANY = 32


@pytest.fixture
def server(tmp_path):
    ensure_checkpoints()
    with LiveServer(make_base(tmp_path)) as server:
        yield server


def last(server, kind: str, node: str, workflow: str = ""):
    return server.get(f"/afa/{kind}?" + urllib.parse.urlencode({"workflow": workflow, "node": node}))


def test_last_results_after_a_crash(server):
    put_aggregator(server.base, "two.safetensors", EXPERTS)
    server.run(routing_graph("two.safetensors", EXPERTS, size=64))
    routing = last(server, "routing", "r")
    assert len(routing["steps"]) == 3
    assert last(server, "routing", "r", workflow="another") is None

    pictures(server.base / "input" / "live_training")
    graph = workflow(server, "kept", steps=1000, evaluate_every=2, sample_prompt="a fox", sample_every=2)
    with Events(server) as events:
        server.queue(graph)
        while events.wait("afa.training", timeout=120)["step"] < 5:
            pass
    server.kill()
    server.start()
    assert last(server, "routing", "r") == routing
    training = last(server, "training", "3")
    assert training["state"] == "done" and training["message"] == "ComfyUI was closed; queue the graph again to go on"
    assert training["steps"] == 1000 and training["step"] >= 4
    assert {row[0] for row in training["history"]} == set(range(training["step"] + 1))
    assert [sample["step"] for sample in training["samples"]] == list(range(0, training["step"] + 1, 2))[-4:]
    assert last(server, "training", "3", workflow="another") is None


def test_a_copy_of_a_graph_has_results_of_its_own(live_server):
    """The host keeps what a node has made by its inputs, and copies have the same ones."""
    put_aggregator(live_server.base, "two.safetensors", EXPERTS)
    graph = routing_graph("two.safetensors", EXPERTS, size=64, seed=77)
    copy = json.loads(json.dumps({f"copy of {name}": node for name, node in graph.items()}))
    for node in copy.values():
        for name, value in node["inputs"].items():
            node["inputs"][name] = [f"copy of {value[0]}", value[1]] if isinstance(value, list) else value
    for prompt, ensemble, viewer in ((graph, "e", "r"), (copy, "copy of e", "copy of r")):
        with Events(live_server) as events:
            live_server.run(prompt)
            sources = {event["data"]["source"] for event in events.seen if event["type"] == "afa.routing"}
        assert sources == {ensemble}
        assert last(live_server, "routing", viewer)["steps"]


def test_only_the_newest_are_kept(pack, comfy_host):
    from importlib import import_module

    kept = import_module(pack.__name__ + ".nodes.kept")
    kept.keep("another kind", "workflow", "0", {})
    for number in range(MANY + 3):
        for kind in ("test", kept.CHOICES):
            kept.keep(kind, "workflow", str(number), {"number": number})
    assert [kept.kept("test", "workflow", str(number)) is None for number in range(4)] == [True] * 3 + [False]
    assert kept.kept("test", "workflow", str(MANY + 2)) == {"number": MANY + 2}
    assert kept.kept("another kind", "workflow", "0") == {}
    assert kept.kept(kept.CHOICES, "workflow", "0") == {"number": 0}  # made by hand, they are never dropped


def test_a_result_that_cannot_be_kept_is_logged_and_no_more(pack, comfy_host, caplog):
    from importlib import import_module

    kept = import_module(pack.__name__ + ".nodes.kept")
    with full_disk():
        assert not kept.keep("test", "workflow", "a full disk", {"maps": "0" * 2000})
    assert "could not be saved" in caplog.text


def test_a_comparison_whose_pictures_are_gone_is_not_shown(pack, comfy_host):
    """The host deletes its temporary files when it starts. The choices are there again with the next comparison."""
    from importlib import import_module
    from pathlib import Path

    import folder_paths

    kept = import_module(pack.__name__ + ".nodes.kept")
    place = "a workflow", "5"
    grid = Path(folder_paths.get_temp_directory(), "grid.png")
    kept.keep(kept.COMPARISON, *place, {"subject": ["a", "b"], "grid": {"filename": "grid.png", "subfolder": ""}})
    assert kept.keep_choices(*place, ["a", "b"], [1])
    assert kept.kept_comparison(*place) is None
    grid.parent.mkdir(exist_ok=True)
    grid.touch()
    assert kept.kept_comparison(*place)["choices"] == [1]
    grid.unlink()


def test_choices_of_two_pages_are_kept_together(pack, comfy_host):
    """Each page sends all that it has made since it was loaded, again after each choice."""
    from importlib import import_module

    kept = import_module(pack.__name__ + ".nodes.kept")
    place, subject = ("two pages", "5"), ["a", "b"]
    kept.keep(kept.COMPARISON, *place, {"subject": subject})
    first, second, third = ({"seed": seed, "methods": ["a", "b"], "winner": "a"} for seed in range(3))
    for made in ([first], [second], [first, third]):
        assert kept.keep_choices(*place, subject, made)
    assert kept.kept(kept.CHOICES, *place)["choices"] == [first, second, third]
