"""`make demo` with a small number of steps."""

import re

import pytest
from PIL import Image

from tests.support.comfy.server import LiveServer
from tests.tools import demo

ENSEMBLES = pytest.mark.parametrize("ensemble", demo.ENSEMBLES, ids=lambda ensemble: ensemble.name)


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


@ENSEMBLES
def test_every_picture_is_saved_and_its_path_printed(printed, ensemble):
    text, pictures = printed
    for name in (ensemble.name, f"{ensemble.name}_routing", *ensemble.experts):
        assert str(pictures[name]) in text
        assert Image.open(pictures[name]).getbbox() is not None
    assert {Image.open(pictures[name]).size for name in (ensemble.name, *ensemble.experts)} == {(128, 64)}


@ENSEMBLES
def test_the_time_per_step_is_printed(printed, ensemble):
    text, _ = printed
    times = dict(re.findall(r"(\w+): +([\d.]+) ms per step", text))
    assert all(float(times[name]) > 0 for name in (ensemble.name, *ensemble.experts))


@ENSEMBLES
def test_the_ensemble_is_none_of_its_experts(printed, ensemble):
    """Same seed, same prompt, other picture."""
    _, pictures = printed
    contents = {Image.open(pictures[name]).tobytes() for name in (ensemble.name, *ensemble.experts)}
    assert len(contents) == 1 + len(ensemble.experts)
