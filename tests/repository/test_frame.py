"""The shape of the repository: what the host and the house's own rules ask of every file."""

import ast
import asyncio
import re
import sys

import pytest

from tests.support.comfy.bootstrap import REPOSITORY
from tests.support.sources import HOST_MODULES, RUNTIME, files, imports

# ---- the sources ----


@pytest.mark.parametrize("path", files("*.py"))
def test_sources_are_ascii(path):
    assert (REPOSITORY / path).read_bytes().isascii()


@pytest.mark.parametrize("path", [path for path in RUNTIME if path.startswith("afa_core/")])
def test_imports_run_downwards(path):
    below_host = not path.startswith("afa_core/host/")
    depth = path.count("/")  # that many dots lead up to afa_core
    for module, names, level in imports(path):
        if level == 0:
            assert not (below_host and module.split(".")[0] in HOST_MODULES), f"{path} imports {module}"
        elif level > depth:
            pytest.fail(f"{path} reaches above afa_core")
        elif level == depth and below_host:
            reached = [module.split(".")[0]] if module else names
            assert "host" not in reached, f"{path} reaches up into afa_core.host"


@pytest.mark.parametrize("path", RUNTIME)
def test_own_modules_are_imported_relatively(path):
    """The host gives the pack a name made of its path, so no other way leads to them."""
    absolute = {module.split(".")[0] for module, _, level in imports(path) if level == 0}
    assert absolute.isdisjoint({"afa_core", "tests"})


@pytest.mark.parametrize("path", RUNTIME)
def test_start_up_is_free(path):
    """What the host has not loaded itself is imported where it is used."""
    heavy = {"kornia", "matplotlib", "scipy", "torchvision", "transformers"}
    assert heavy.isdisjoint(module.split(".")[0] for module, _, _ in imports(path, top_level_only=True))


# ---- the nodes ----


@pytest.fixture(scope="module")
def schemas(pack):
    async def collect():
        extension = await pack.comfy_entrypoint()
        return [node.GET_SCHEMA() for node in await extension.get_node_list()]

    return asyncio.run(collect())


def test_nodes_introduce_themselves(schemas):
    assert schemas
    for schema in schemas:
        assert schema.display_name, schema.node_id
        assert schema.description, schema.node_id
        assert schema.category.split("/")[0] == "AFA", schema.node_id


def test_every_input_has_a_tooltip(schemas):
    inputs = [(schema.node_id, slot) for schema in schemas for slot in schema.inputs]
    assert [f"{node_id}.{slot.id}" for node_id, slot in inputs if not slot.tooltip] == []


def test_every_node_is_found_by_other_names(schemas):
    """In the sources, since older hosts do not know of aliases."""
    trees = [ast.parse((REPOSITORY / path).read_text()) for path in RUNTIME if path.startswith("nodes/")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    texts = [{word.arg: word.value for word in call.keywords} for call in calls if ast.unparse(call.func) == "schema"]
    aliases = {ast.literal_eval(text["node_id"]): ast.literal_eval(text["search_aliases"]) for text in texts}
    assert aliases.keys() == {schema.node_id for schema in schemas}
    assert all(aliases.values())


def test_every_node_has_a_help_page(schemas):
    pages = REPOSITORY / "js" / "docs"
    assert [schema.node_id for schema in schemas if not (pages / f"{schema.node_id}.md").is_file()] == []


def test_every_help_page_names_every_input(schemas):
    """Of numbered sockets the first and the last."""
    missing = []
    for schema in schemas:
        page = (REPOSITORY / "js" / "docs" / f"{schema.node_id}.md").read_text()
        names = [slot.id for slot in schema.inputs if not re.search(r"_[2-7]$", slot.id)]
        missing += [f"{schema.node_id}.{name}" for name in names if not re.search(rf"\b{name}\b", page)]
    assert missing == []


def test_tests_and_pack_share_one_core(pack):
    """Else isinstance fails between what a test makes and what a node takes (tests/support/comfy/alias.py)."""
    import afa_core

    own_name = f"{pack.__name__}.afa_core"
    twins = {name for name in sys.modules if name == own_name or name.startswith(own_name + ".")}
    assert twins
    for name in twins:
        assert sys.modules[name] is sys.modules["afa_core" + name.removeprefix(own_name)]
    assert sys.modules[own_name] is afa_core
