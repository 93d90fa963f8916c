"""The repository's own files and what they import, for tests that read sources and for the packed archive."""

import ast
import subprocess
from collections.abc import Iterator

from tests.support.comfy.bootstrap import REPOSITORY


def files(*arguments: str) -> list[str]:
    """The repository's files, committed or about to be, as paths relative to its root; arguments as of git ls-files."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *arguments]
    listed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    return [path for path in listed.splitlines() if (REPOSITORY / path).is_file()]


def shipped() -> list[str]:
    """What the registry's archive holds: all files but those that .comfyignore names."""
    left_out = set(files("--ignored", "--exclude-from=.comfyignore"))
    return [path for path in files() if path not in left_out]


def imports(path: str, top_level_only: bool = False) -> Iterator[tuple[str, list[str], int]]:
    """(module, names, relative level) of every import statement of a source file."""
    tree = ast.parse((REPOSITORY / path).read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, [], 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", [alias.name for alias in node.names], node.level


RUNTIME = [path for path in files("*.py") if not path.startswith("tests/")]
"""The sources that an artist's ComfyUI runs."""

HOST_MODULES = {
    "comfy", "comfy_api", "comfy_config", "comfy_execution", "comfy_extras", "comfy_kitchen", "execution", "folder_paths",
    "latent_preview", "node_helpers", "nodes", "protocol", "server", "utils",
}  # fmt: skip
