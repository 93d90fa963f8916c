"""The view on Compare AFA Methods: the grid and the table of a run, and the blind choice by keyboard."""

import uuid

import pytest

from tests.browser.page import either
from tests.support.comparison import compared, loaders

EXPERTS = [f"tiny_sd15_{name}.safetensors" for name in "abc"]
ROWS = {"weighted_merge": False, "step_switch": False, "magic_fusion": False, "noise_average": False, "trained_aggregators": False}
VIEW = ".afa-compare:not(.afa-empty)"


@pytest.fixture
def run(canvas):
    """Runs a comparison of four methods and two seeds on the page; of a prompt of its own, that the host has not in its cache."""
    graph = compared(loaders(EXPERTS, "none"), "1-2", 2, prompt=uuid.uuid4().hex, **ROWS)
    graph = {name: node for name, node in graph.items() if name not in ("a", "s", "g", "t")}
    del graph["x"]["inputs"]["aggregator_1"]
    canvas.load_api(graph)
    canvas.run(
        "app.graph.nodes.forEach((node, i) => { node.pos = [900, 60 + 300 * i]; });"
        "app.graph.nodes.find((n) => n.comfyClass === 'AFACompare').pos = [60, 60];"
        "app.canvas.ds.scale = 0.6; app.canvas.ds.offset = [0, 40]; app.canvas.setDirty(true, true);"
        "await new Promise((done) => setTimeout(done, 500)); await app.queuePrompt(0, 1);"
    )
    canvas.until(f"document.querySelector('{VIEW} img')?.complete", seconds=120)
    canvas.settle(300)
    return canvas


def turn_to(canvas, page: int) -> None:
    canvas.run(f"document.querySelectorAll('{VIEW} .afa-tab')[argument].click();", page)
    canvas.settle(100)


def table(canvas) -> list[list[str]]:
    turn_to(canvas, 1)
    return canvas.run(
        f"return [...document.querySelectorAll('{VIEW} tr')].map((row) => [...row.children].map((cell) => cell.textContent));"
    )


def pictures(canvas) -> list[str]:
    return canvas.run(f"return [...document.querySelectorAll('{VIEW} .afa-candidate img')].map((image) => image.src);")


@either
def test_the_grid_and_the_table(run):
    width, height = run.run(f"const image = document.querySelector('{VIEW} img'); return [image.naturalWidth, image.naturalHeight];")
    assert width > 2 * 192 and height > 4 * 192
    head, *rows = table(run)
    assert head == ["method", "networks a step", "seconds a picture"]
    assert [row[:2] for row in rows] == [
        ["tiny_sd15_a", "1"], ["tiny_sd15_b", "1"], ["tiny_sd15_c", "1"], ["block average", "3"],
    ]  # fmt: skip
    assert all(float(row[2]) > 0 for row in rows)


@either
def test_the_blind_choice_by_keyboard_survives_a_reload(run):
    turn_to(run, 2)
    seen = [pictures(run)]
    assert len(seen[0]) == 2
    names = run.run(f"return document.querySelector('{VIEW}').textContent;")
    assert "tiny" not in names and "average" not in names
    for number, key in enumerate(["ArrowLeft", "ArrowRight", "ArrowDown"], start=1):
        with run.page.expect_response("**/afa/comparison/choices") as answer:
            run.page.keyboard.press(key)
        assert answer.value.json() == {"kept": True}
        seen.append(pictures(run))
        assert run.run(f"return document.querySelector('{VIEW} .afa-count').textContent;") == f"{number} of 12"
    assert len({tuple(pair) for pair in seen}) == 4
    before = table(run)
    assert before[0][-1] == "chosen blind"
    assert any(row[-1] != "-" for row in before[1:])
    run.settle(1500)  # the front end keeps its draft of the workflow a moment after the last change
    run.load()
    run.until(f"document.querySelector('{VIEW} img')")
    assert table(run) == before
    with run.page.expect_download() as download:
        run.run(f"document.querySelector('{VIEW} .afa-bar > .afa-button').click();")
    text = download.value.path().read_text()
    assert "| chosen blind |" in text and before[1][-1] in text


@either
def test_choices_that_cannot_be_saved_are_told_until_they_are(run):
    turn_to(run, 2)
    route, said = "**/afa/comparison/choices", f"document.querySelector('{VIEW} .afa-message').textContent"
    for answer in ({"json": {"kept": False}}, {"status": 500}):
        run.page.route(route, lambda request, _, answer=answer: request.fulfill(**answer))
        with run.page.expect_response(route):
            run.page.keyboard.press("ArrowLeft")
        run.until(f"{said}.startsWith('Your choices could not be saved.')")
        run.page.unroute(route)
        with run.page.expect_response(route):
            run.page.keyboard.press("ArrowLeft")
        run.until(f"{said} === ''")
    run.page.route(route, lambda request: request.fulfill(json={"kept": False}))
    run.page.keyboard.press("ArrowLeft")
    with run.page.expect_response("**/afa/comparison?*"):  # of the same result, from the host's cache
        run.run("await app.queuePrompt(0, 1);")
    run.settle(300)
    run.page.unroute(route)
    assert run.run(f"return document.querySelector('{VIEW} .afa-count').textContent;") == "5 of 12"
    run.complaints.clear()  # of the answer 500


@either
def test_keys_choose_only_there(run):
    """On another page of the view, and anywhere else, the arrow keys stay the front end's own."""
    turn_to(run, 0)
    run.page.keyboard.press("ArrowLeft")
    turn_to(run, 2)
    assert run.run(f"return document.querySelector('{VIEW} .afa-count').textContent;").startswith("0 of")


@either
def test_a_key_that_is_held_chooses_once(run):
    turn_to(run, 2)
    for _ in range(3):
        run.page.keyboard.down("ArrowLeft")
    run.page.keyboard.up("ArrowLeft")
    assert run.run(f"return document.querySelector('{VIEW} .afa-count').textContent;").startswith("1 of")
