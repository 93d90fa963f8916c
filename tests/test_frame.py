"""The shape of the repository: what the registry, the host and the house's own rules ask of every file."""

import ast
import asyncio
import re
import subprocess
import sys
import tomllib

import pytest

from tests.host.bootstrap import HOST_VERSION, PACK_NAME, REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def files(*arguments):
    """The repository's files, committed or about to be, as paths relative to its root; arguments as of git ls-files."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *arguments]
    listed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    return [path for path in listed.splitlines() if (REPOSITORY / path).is_file()]


RUNTIME = [path for path in files("*.py") if not path.startswith("tests/")]


def imports(path, top_level_only=False):
    """(module, names, relative level) of every import statement of a source file."""
    tree = ast.parse((REPOSITORY / path).read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, [], 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", [alias.name for alias in node.names], node.level


# ---- the registry ----


def test_the_name_is_one_the_registry_takes():
    project = PROJECT["project"]
    assert project["name"] == PACK_NAME
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,99}", project["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["description"].isascii()


def test_the_licence_is_gpl_3():
    text = (REPOSITORY / PROJECT["project"]["license"]["file"]).read_text()
    assert "GNU GENERAL PUBLIC LICENSE" in text
    assert "Version 3, 29 June 2007" in text


def test_requirements_agree_and_leave_torch_to_the_host():
    requirements = (REPOSITORY / "requirements.txt").read_text().split()
    assert requirements == PROJECT["project"]["dependencies"]
    assert not [requirement for requirement in requirements if requirement.startswith("torch")]


def test_the_oldest_host_served_is_the_one_tested():
    assert PROJECT["tool"]["comfy"]["requires-comfyui"] == f">={HOST_VERSION}"


def test_the_host_reads_our_project_file(comfy_host):
    from comfy_config.config_parser import extract_node_configuration

    configuration = extract_node_configuration(str(REPOSITORY))
    assert configuration.project.name == PACK_NAME
    assert configuration.tool_comfy.display_name == "AFA Ensemble"
    # WEB_DIRECTORY serves the front end: with `web` set as well, every script would load twice.
    assert configuration.tool_comfy.web is None


def test_the_archive_holds_runtime_files_only():
    left_out = set(files("--ignored", "--exclude-from=.comfyignore"))
    shipped = [path for path in files() if path not in left_out]
    top_level = {path.split("/")[0] for path in shipped}
    needed = {"__init__.py", "afa_core", "nodes", "js", "workflows", "pyproject.toml", "requirements.txt"}
    allowed = needed | {"locales", "README.md", "LICENSE"}
    assert top_level - allowed == set()
    assert needed - top_level == set()


# ---- the sources ----


@pytest.mark.parametrize("path", files("*.py"))
def test_sources_are_ascii(path):
    assert (REPOSITORY / path).read_bytes().isascii()


# The registry's scanner reads text, not syntax: `module.eval()` is an `eval()` to it (use `train(False)`).
FORBIDDEN = r"(?<![A-Za-z_])(eval|exec)\(|\.cuda\(|torch\.load\(|\bpickle\b|\bsubprocess\b|\bos\.system\("


@pytest.mark.parametrize("path", RUNTIME)
def test_nothing_forbidden_is_called(path):
    assert re.findall(FORBIDDEN, (REPOSITORY / path).read_text()) == []


HOST_MODULES = {
    "comfy", "comfy_api", "comfy_config", "comfy_execution", "comfy_extras", "execution", "folder_paths",
    "latent_preview", "node_helpers", "nodes", "protocol", "server", "utils",
}  # fmt: skip


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


def test_every_node_has_a_help_page(schemas):
    pages = REPOSITORY / "js" / "docs"
    assert [schema.node_id for schema in schemas if not (pages / f"{schema.node_id}.md").is_file()] == []


def test_tests_and_pack_share_one_core(pack):
    """Else isinstance fails between what a test makes and what a node takes (tests/host/alias.py)."""
    import afa_core

    own_name = f"{pack.__name__}.afa_core"
    twins = {name for name in sys.modules if name == own_name or name.startswith(own_name + ".")}
    assert twins
    for name in twins:
        assert sys.modules[name] is sys.modules["afa_core" + name.removeprefix(own_name)]
    assert sys.modules[own_name] is afa_core
