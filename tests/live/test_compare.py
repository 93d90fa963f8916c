"""AFA Compare on a live server: its pictures are those of graphs made by hand, and its rows stay in the host's cache."""

import io
import shutil
import urllib.parse

import pytest
from PIL import Image

from tests.pocket.scenes import checkpoints
from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.events import Events
from tests.support.comfy.server import Failure, LiveServer
from tests.support.comparison import METHODS, by_hand, compared, loaders
from tests.tools.demo import EXPERTS, TRAINED

FILES = loaders([f"{name}.safetensors" for name in EXPERTS], "trained.safetensors")
SEEDS, STEPS = [1, 2], 3


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = make_base(tmp_path_factory.mktemp("compare"))
    checkpoints.ensure(base / "models" / "checkpoints", EXPERTS)
    shutil.copy(TRAINED, base / "models" / "afa" / "trained.safetensors")
    with LiveServer(base) as server:
        yield server


def pixels(server, history, node) -> list[bytes]:
    return [Image.open(io.BytesIO(data)).tobytes() for data in server.images(history, node)]


def sampled(server, graph) -> tuple[dict, list[str]]:
    """The history of a graph, and the nodes that sampled for it, by the keys that AFA Compare gives them."""
    with Events(server) as events:
        history = server.run(graph)
        ran = [event["data"]["node"] for event in events.seen if event["type"] == "executing" and event["data"]["node"]]
    return history, [node.split(".")[-1] for node in ran if "_sampler" in node]


def test_its_pictures_are_those_of_graphs_made_by_hand(server):
    history = server.run(compared(FILES, "1-2", STEPS))
    found = pixels(server, history, "s")
    hand = server.run(by_hand(FILES, SEEDS, STEPS))
    expected = [pixels(server, hand, f"{method} {seed}")[0] for method in METHODS for seed in SEEDS]
    assert len(set(expected)) == len(expected)
    assert found == expected
    (grid,) = server.images(history, "g")
    assert Image.open(io.BytesIO(grid)).height > 9 * 192
    lines = history["outputs"]["t"]["text"][0].splitlines()
    names = [*EXPERTS, "weighted merge", "step switch", "noise average", "block average", "magic fusion", "trained"]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == names
    assert [line.split(" | ")[1] for line in lines[2:]] == ["1"] * 5 + ["3"] * 4
    assert all(float(line.split(" | ")[2].removesuffix(" |")) > 0 for line in lines[2:])


def test_only_what_is_new_is_sampled(server):
    graph = compared(FILES, "1-2", 2, noise_average=False, magic_fusion=False)
    first, ran = sampled(server, graph)
    assert len(ran) == 2 * (6 + 2)  # two steps are shared by two checkpoints
    graph["x"]["inputs"]["noise_average"] = True
    second, ran = sampled(server, graph)
    assert ran == ["noise_average_1_sampler", "noise_average_2_sampler"]
    before, after = pixels(server, first, "s"), pixels(server, second, "s")
    assert after[:10] + after[12:] == before
    graph["x"]["inputs"]["seeds"] = "2, 9"
    _, ran = sampled(server, graph)
    assert {node.split("_sampler")[0].split("_")[-1] for node in ran} == {"9"}
    _, ran = sampled(server, graph)
    assert ran == []


def test_a_cancelled_comparison_keeps_its_finished_pictures(server):
    graph = compared(FILES, "11-12", 8, weighted_merge=False, step_switch=False)
    with Events(server) as events:
        prompt = server.queue(graph)
        while not events.wait("executing")["node"].endswith("noise_average_11_sampler"):
            pass
        while events.wait("progress")["value"] < 2:
            pass
        server.interrupt()
        with pytest.raises(Failure, match="interrupted"):
            server.wait(prompt)
    _, ran = sampled(server, graph)
    assert ran == [f"{method}_{seed}_sampler" for method in ("noise_average", "block_average", "magic_fusion", "aggregator_1") for seed in (11, 12)]  # fmt: skip


def test_one_clip_serves_all(server):
    graph = compared(FILES, "1", 2)
    graph["x"]["inputs"] = {name: value for name, value in graph["x"]["inputs"].items() if name not in ("clip_2", "clip_3")}
    assert len(server.images(server.run(graph), "s")) == 9
    graph["x"]["inputs"]["clip_2"] = ["c2", 1]
    with pytest.raises(Failure, match="3 models are connected, and 2 CLIPs"):
        server.run(graph)


def test_what_does_not_fit_is_refused_before_the_first_picture(server):
    graph = compared(FILES, "1", 2)
    del graph["x"]["inputs"]["model_3"], graph["x"]["inputs"]["clip_3"]
    with Events(server) as events:
        with pytest.raises(Failure, match="trained for 3 experts, and 2 models are connected") as failure:
            server.run(graph)
        assert not [event for event in events.seen if event["type"] == "progress"]
    assert failure.value.node_type == "AFACompare"
    for changes, message in [({"seeds": "first"}, "seeds should be numbers"), ({}, "nothing to paint")]:
        graph = compared(FILES, **{"seeds": "1", "steps": 2, **changes})
        if not changes:
            graph["x"]["inputs"].update({name: False for name, value in graph["x"]["inputs"].items() if value is True})
        with pytest.raises(Failure, match=message):
            server.run(graph)


def test_a_run_in_which_nothing_is_new_says_where_the_result_is(server):
    """As when the workflow is opened in another tab: the view there has seen no result yet."""
    graph = compared(FILES, "1", 2, magic_fusion=False)
    for _ in range(2):
        history = server.run(graph)
        (place,) = history["outputs"]["x"]["afa_comparison"]
        kept = server.get("/afa/comparison?" + urllib.parse.urlencode(place))
        assert kept["shown"]["seeds"] == [1] and kept["choices"] == []
        assert server.images({"outputs": {"x": {"images": [kept["shown"]["grid"], *kept["shown"]["pictures"][0]]}}}, "x")


def test_choices_are_kept_until_other_pictures_are_painted(server):
    graph = compared(FILES, "1", 2, magic_fusion=False)
    (place,) = server.run(graph)["outputs"]["x"]["afa_comparison"]
    address = "/afa/comparison?" + urllib.parse.urlencode(place)
    subject = server.get(address)["shown"]["subject"]
    made = [{"prompt": "a", "seed": 1, "methods": ["checkpoint_1", "step_switch"], "winner": None}]
    assert server.post("/afa/comparison/choices", {**place, "subject": subject, "choices": made}) == {"kept": True}
    graph["x"]["inputs"]["seeds"] = "1-2"
    server.run(graph)
    assert server.get(address)["choices"] == made
    graph["x"]["inputs"]["steps"] = 3
    server.run(graph)
    assert server.get(address)["choices"] == []
    graph["x"]["inputs"]["steps"] = 2
    server.run(graph)
    assert server.get(address)["choices"] == made
    sockets = graph["x"]["inputs"]
    sockets["model_1"], sockets["model_2"] = sockets["model_2"], sockets["model_1"]
    sockets["trained_aggregators"] = False
    server.run(graph)
    assert server.get(address)["choices"] == []
    assert server.post("/afa/comparison/choices", {**place, "subject": subject, "choices": made}) == {"kept": False}
    assert server.post("/afa/comparison/choices", {"workflow": "", "node": "no such node", "subject": subject, "choices": []}) == {"kept": False}
