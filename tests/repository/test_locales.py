"""The texts in other languages belong to nodes and inputs that exist, and the English ones are the nodes' own."""

import json

import pytest

from tests.tools.locales import FOLDER, english

LANGUAGES = ["zh", "ja"]


def texts(language):
    return json.loads((FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))


def test_english_is_what_the_nodes_say(live_server):
    assert texts("en") == english(live_server.get("/object_info")), "run python -m tests.tools.locales"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_has_a_name_a_description_and_all_its_tooltips(language):
    translated, original = texts(language), texts("en")
    assert translated.keys() == original.keys()
    for node, entry in translated.items():
        assert entry["display_name"] != original[node]["display_name"]
        assert entry["description"] != original[node]["description"]
        assert entry["inputs"].keys() == original[node]["inputs"].keys(), node
        assert all(slot["tooltip"] for slot in entry["inputs"].values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbered_sockets_keep_their_numbers(language):
    for node, entry in texts(language).items():
        for name, slot in entry["inputs"].items():
            if name.startswith(("model_", "clip_")):
                assert name.rsplit("_", 1)[1] in slot["tooltip"], f"{node}.{name}"
