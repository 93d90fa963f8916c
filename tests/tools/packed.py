"""The archive that the registry gets, built as `comfy node pack` builds it, and tried out.

    python -m tests.tools.packed [FILE]

Writes it to FILE, or to output/node.zip. Prints what is in it, installs it into a ComfyUI that has nothing else of ours, and runs the quick start there. The
pocket checkpoints and the custom node of their family come beside it, as an artist's own checkpoints would.
"""

import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

from ..support.comfy.bootstrap import PACK_NAME, REPOSITORY
from ..support.comfy.server import LiveServer
from ..support.sources import shipped
from . import demo


def build(target: Path) -> Path:
    """The files of the repository less those that .comfyignore names, zipped."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in shipped():
            archive.write(REPOSITORY / path, path)
    return target


def contents(archive: Path) -> dict[str, int]:
    """Packed bytes by top-level name."""
    sizes = Counter()
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            sizes[entry.filename.split("/")[0]] += entry.compress_size
    return dict(sizes)


def installed(archive: Path, base: Path) -> Path:
    """A base directory whose custom nodes are the unpacked archive and the pocket checkpoints' family."""
    demo.prepare(base)
    for link in (base / "custom_nodes").iterdir():
        if link.name != "pocket_family":
            link.unlink()
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(base / "custom_nodes" / PACK_NAME)
    return base


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "output" / "node.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    archive = build(target)
    print(f"{archive}: {archive.stat().st_size / 1e6:.2f} MB, {len(shipped())} files")
    for name, size in sorted(contents(archive).items(), key=lambda row: -row[1]):
        print(f"{size / 1e6:8.3f} MB  {name}")
    base = Path(tempfile.mkdtemp())
    try:
        with LiveServer(installed(archive, base)) as server:
            demo.run(server, base / "output", demo.PROMPT, steps=4, seed=1)
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
