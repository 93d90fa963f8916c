"""What the front end shows of files and folders stays text: nothing in it turns a string into a part of the page."""

import re

import pytest

from tests.support.comfy.bootstrap import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "js").rglob("*.js")) + sorted((REPOSITORY / "js").rglob("*.mjs"))
SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|setHTML|document\.write|DOMParser|createContextualFragment|srcdoc"
    r"|\beval\(|new Function|setAttribute\(\s*[\"']on|javascript:"
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_no_string_becomes_markup(script):
    assert SINKS.findall(script.read_text()) == []


def test_the_pattern_finds_what_it_looks_for():
    found = ["node.innerHTML = name", "element.setAttribute('onclick', name)", "location = 'javascript:' + name"]
    assert all(SINKS.search(line) for line in found)
    assert not SINKS.search("node.textContent = evaluate(name)")
