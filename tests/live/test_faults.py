"""A running server: two ensembles in its queue, strange requests, and an end in the middle of a training."""

import urllib.error
import urllib.request

import pytest
import torch

from afa_core.aggregator.file import load_aggregator
from tests.live.test_training import first_measured, workflow
from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.events import Events
from tests.support.comfy.server import Failure, LiveServer
from tests.support.node_trainer import twelve_pictures
from tests.tools.soak.graphs import prompt, put_aggregators


@pytest.fixture(scope="module")
def server(live_server):
    put_aggregators(live_server.base)
    return live_server


def saving(number: int) -> dict:
    """A prompt of the soak that paints from scratch, whatever the server has in its cache."""
    graph = prompt(number)
    graph["k"]["inputs"]["seed"] += 1000
    return graph


def test_two_prompts_in_the_queue_with_different_ensembles(server):
    """One after the other, each paints what it paints alone; also where the first of them is cancelled or fails."""

    def pictures(history):
        return server.images(history, "s")

    alone = []
    for number in (0, 1):
        alone.append(pictures(server.run(saving(number))))
        server.free()
    failing = saving(0)
    failing["p"]["inputs"]["text"] = "another cat"
    failing["c2"]["inputs"]["ckpt_name"] = "tiny_sdxl_a.safetensors"
    broken, first, second = (server.queue(graph) for graph in (failing, saving(0), saving(1)))
    with pytest.raises(Failure, match="an ensemble needs checkpoints of one architecture"):
        server.wait(broken)
    assert [pictures(server.wait(first)), pictures(server.wait(second))] == alone


def answer(server, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
    request = urllib.request.Request(server.url + path, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as found:
            return found.status, found.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


STRANGE = pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "application/json"),
        (b"no json", "application/json"),
        (b"[]", "application/json"),
        (b"7", "application/json"),
        (b"{}", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b'{"run": "1"}', "application/json; charset=none-such"),
        (b"[" * 100_000, "application/json"),
    ],
)


@STRANGE
def test_strange_requests_to_stop_a_training_are_answered(server, body, kind):
    assert answer(server, "/afa/training/stop", body, kind) == (400, b'{"error": "expected {run: id}"}')


@STRANGE
def test_strange_choices_are_answered(server, body, kind):
    expected = b'{"error": "expected {workflow: id, node: id, subject: [...], choices: [...]}"}'
    assert answer(server, "/afa/comparison/choices", body, kind) == (400, expected)


def test_choices_that_are_no_lists_are_answered(server):
    body = b'{"workflow": "", "node": "1", "subject": 7, "choices": []}'
    assert answer(server, "/afa/comparison/choices", body, "application/json")[0] == 400


@pytest.mark.parametrize("name", ["..%2F..%2Fuser%2Fcomfyui.db", "%2Fetc%2Fpasswd", "..", "%00", "a" * 3000])
def test_paths_lead_nowhere(server, name):
    status, text = answer(server, f"/afa/aggregator?name={name}")
    assert status == 200 and text.startswith(b'{"error"') and len(text) < 1500
    assert answer(server, f"/afa/routing?workflow={name}&node={name}") == (200, b"null")
    assert answer(server, f"/afa/training?node={name}") == (200, b"null")


def test_a_server_that_is_killed_while_it_trains(server, tmp_path):
    """kill -9; what lies in models/afa is whole, and the next server goes on to the same numbers."""
    twelve_pictures(_folder(server.base / "input" / "killed"))
    own = make_base(tmp_path)
    twelve_pictures(_folder(own / "input" / "killed"))
    graph = workflow(server, "killed", prompt_folder="killed", steps=12)
    server.run(graph)
    folder = own / "models" / "afa"
    with LiveServer(own) as first:
        with Events(first) as events:
            first.queue(graph)
            while events.wait("afa.training")["step"] < 6:
                pass
        first.kill()
        for path in folder.glob("*.safetensors"):
            assert load_aggregator(path).training["steps"] < 12
        assert (folder / "killed.resume").exists()
        first.start()
        with Events(first) as events:
            first.run(graph)
        assert first_measured(events) > 0
    whole = load_aggregator(server.base / "models" / "afa" / "killed.safetensors")
    again = load_aggregator(folder / "killed.safetensors")
    assert all(torch.equal(whole.state[key], again.state[key]) for key in whole.state)


def _folder(path):
    path.mkdir(exist_ok=True)
    return path
