"""The linter that other packs are measured by, on the archive that the registry gets."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.comfy.bootstrap import PACK_NAME
from tests.tools.packed import build


def test_comfy_test_finds_nothing(tmp_path):
    pack = tmp_path / PACK_NAME
    with zipfile.ZipFile(build(tmp_path / "node.zip")) as archive:
        archive.extractall(pack)
    command = [Path(sys.executable).with_name("comfy-test"), "lint", "--strict", pack]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
