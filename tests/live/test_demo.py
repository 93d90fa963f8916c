"""`make demo` with a small number of steps, on the scenes' near experts."""

import re

import pytest
from PIL import Image

from tests.support.comfy.server import LiveServer
from tests.tools import demo


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """(what the demo prints, its pictures by name) of a run of three steps."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *parts: lines.append(" ".join(map(str, parts))))
        with LiveServer(demo.prepare(folder / "base")) as server:
            pictures = demo.run(server, folder / "output", demo.PROMPT, steps=3, seed=2)
    return "\n".join(lines), pictures


def test_every_picture_is_saved_and_its_path_printed(printed):
    text, pictures = printed
    assert {"ensemble", "ensemble_routing", *demo.EXPERTS} <= pictures.keys()
    for path in pictures.values():
        assert str(path) in text
        assert Image.open(path).getbbox() is not None
    assert {Image.open(pictures[name]).size for name in ("ensemble", *demo.EXPERTS)} == {(128, 64)}


def test_the_time_per_step_is_printed(printed):
    text, _ = printed
    times = dict(re.findall(r"(\w+): +([\d.]+) ms per step", text))
    assert {"ensemble", *demo.EXPERTS} <= times.keys()
    assert all(float(value) > 0 for value in times.values())


def test_the_ensemble_is_none_of_its_experts(printed):
    """Same seed, same prompt, other picture."""
    _, pictures = printed
    contents = [Image.open(pictures[name]).tobytes() for name in ("ensemble", *demo.EXPERTS)]
    assert len(set(contents)) > 1
    assert contents[0] not in contents[1:]
