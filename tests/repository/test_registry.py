"""What the Comfy registry asks of a pack, and what it installs for it.

The rules are those of docs.comfy.org/registry (specifications and standards), and the three checks of ruff that
`comfy node validate` runs before it publishes.
"""

import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest

from tests.support.comfy.bootstrap import HOST_VERSION, PACK_NAME, REPOSITORY, ensure_host
from tests.support.sources import HOST_MODULES, RUNTIME, files, imports, shipped

FILE = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PROJECT, COMFY = FILE["project"], FILE["tool"]["comfy"]


# ---- pyproject.toml ----


def test_the_name_is_one_the_registry_takes():
    name = PROJECT["name"]
    assert name == PACK_NAME
    assert re.fullmatch(r"[A-Za-z]([._-]?[A-Za-z0-9])*", name)
    assert len(name) < 100
    assert "comfyui" not in name.lower()


def test_the_version_is_semantic():
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])


def test_the_licence_is_gpl_3():
    assert PROJECT["license"].keys() == {"file"}
    text = (REPOSITORY / PROJECT["license"]["file"]).read_text()
    assert "GNU GENERAL PUBLIC LICENSE" in text
    assert "Version 3, 29 June 2007" in text


def test_the_fields_that_the_registry_shows_are_there():
    assert PROJECT["description"].isascii()
    assert all(url.startswith("https://") for url in PROJECT["urls"].values())
    assert {"Repository", "Documentation", "Issues"} <= PROJECT["urls"].keys()
    assert re.fullmatch(r">=3\.\d+", PROJECT["requires-python"])
    assert "Operating System :: OS Independent" in PROJECT["classifiers"]
    assert re.fullmatch(r"[a-z0-9-]+", COMFY["PublisherId"])
    assert COMFY["DisplayName"]
    assert "ComfyUI" not in COMFY["DisplayName"]


def test_the_oldest_host_served_is_the_one_tested():
    assert COMFY["requires-comfyui"] == f">={HOST_VERSION}"


def test_the_host_reads_our_project_file(comfy_host):
    from comfy_config.config_parser import extract_node_configuration

    configuration = extract_node_configuration(str(REPOSITORY))
    assert configuration.project.name == PACK_NAME
    assert configuration.tool_comfy.display_name == "AFA Ensemble"
    # WEB_DIRECTORY serves the front end: with `web` set as well, every script would load twice.
    assert configuration.tool_comfy.web is None


# ---- the sources ----

# The registry's scanner reads text, not syntax: `module.eval()` is an `eval()` to it (use `train(False)`).
FORBIDDEN = r"(?<![A-Za-z_])(eval|exec)\(|\.cuda\(|torch\.load\(|\bpickle\b|\bsubprocess\b|\bos\.system\("


@pytest.mark.parametrize("path", RUNTIME)
def test_nothing_forbidden_is_called(path):
    assert re.findall(FORBIDDEN, (REPOSITORY / path).read_text()) == []


INSTALLERS_AND_NETWORK = {
    "ctypes", "ensurepip", "ftplib", "http", "huggingface_hub", "marshal", "multiprocessing", "pip", "requests",
    "runpy", "setuptools", "socket", "subprocess", "urllib", "urllib3", "webbrowser", "zlib",
}  # fmt: skip


@pytest.mark.parametrize("path", RUNTIME)
def test_nothing_is_installed_downloaded_or_unpacked_at_run_time(path):
    used = {module.split(".")[0] for module, _, level in imports(path) if level == 0}
    assert used.isdisjoint(INSTALLERS_AND_NETWORK)


def test_the_registrys_own_linter_finds_nothing():
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--ignore-noqa", "--select", "S102,S307,E702"]
    checked = subprocess.run([*command, *RUNTIME], cwd=REPOSITORY, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", [path for path in files("*.js", "*.mjs") if path.startswith("js/")])
def test_scripts_are_readable_and_run_no_text(path):
    text = (REPOSITORY / path).read_text()
    assert re.findall(r"\beval\(|new Function\(|https?://(?!www\.w3\.org/)", text) == []
    assert max(map(len, text.splitlines())) < 250  # nobody can review a minified script


def test_nothing_runs_at_installation_or_before_the_host():
    assert {"install.py", "uninstall.py", "prestartup_script.py", "setup.py"}.isdisjoint(files())


# ---- what is installed with the pack ----

REQUIREMENTS = (REPOSITORY / "requirements.txt").read_text().split()
OPTIONAL = [name for names in PROJECT["optional-dependencies"].values() for name in names]


def third_party():
    """The distributions that the sources import, beside the host itself: {"Pillow", "torch", ...}."""
    modules = {m.split(".")[0] for path in RUNTIME for m, _, level in imports(path) if level == 0}
    outside = modules - HOST_MODULES - sys.stdlib_module_names
    distributions = importlib.metadata.packages_distributions()
    return {plain(name) for module in outside for name in distributions[module]}


def plain(requirement):
    """The bare name of a line of a requirements file, as distributions are compared."""
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=~!\[; ]", requirement)[0]).lower()


def test_requirements_agree_and_leave_torch_to_the_host():
    assert PROJECT["dependencies"] == REQUIREMENTS
    assert not [name for name in [*REQUIREMENTS, *OPTIONAL] if plain(name) in ("torch", "torchvision", "torchaudio")]


def test_no_version_is_forced_on_other_packs():
    """An upper bound or a pin would up- or downgrade a package that another pack needs."""
    assert [line for line in [*REQUIREMENTS, *OPTIONAL] if re.search(r"[<=~!]", line.replace(">=", ""))] == []


def test_what_is_imported_is_required_or_the_hosts_own():
    from_host = {plain(line) for line in (ensure_host() / "requirements.txt").read_text().splitlines() if line}
    assert third_party() - from_host - set(map(plain, [*REQUIREMENTS, *OPTIONAL])) == set()


def test_what_is_required_is_imported():
    assert set(map(plain, [*REQUIREMENTS, *OPTIONAL])) - third_party() == set()


# By the licences' own words in a package's metadata; all of them may be combined with GPL 3 or later.
COMPATIBLE = ("MIT", "BSD", "Apache", "Python Software Foundation", "PSF", "GPL", "MPL")


@pytest.mark.parametrize("name", [*REQUIREMENTS, *OPTIONAL])
def test_licences_go_with_ours(name):
    metadata = importlib.metadata.metadata(plain(name))
    words = [metadata.get("License-Expression"), metadata.get("License"), *(metadata.get_all("Classifier") or [])]
    licence = " ".join(word for word in words if word and not word.startswith(("Programming", "Topic", "Framework")))
    assert any(word in licence for word in COMPATIBLE), licence


def test_the_archive_holds_runtime_files_only():
    top_level = {path.split("/")[0] for path in shipped()}
    needed = {"__init__.py", "afa_core", "nodes", "js", "locales", "workflows", "pyproject.toml", "requirements.txt"}
    assert top_level == needed | {"README.md", "LICENSE"}
    assert not [path for path in shipped() if path.endswith((".pyc", ".pt", ".pth", ".ckpt", ".safetensors", ".log"))]
