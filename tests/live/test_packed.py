"""The packed archive, unpacked into a ComfyUI that has nothing else of ours, runs the quick start."""

import pytest
from PIL import Image

from tests.support.comfy.bootstrap import PACK_NAME
from tests.support.comfy.server import LiveServer
from tests.tools import demo, packed


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    archive = packed.build(folder / "node.zip")
    assert archive.stat().st_size < 2e6  # pictures of templates are most of it
    with LiveServer(packed.installed(archive, folder / "base")) as server:
        yield server


def test_nothing_of_the_repository_is_reached(server):
    pack = server.base / "custom_nodes" / PACK_NAME
    assert not pack.is_symlink()
    assert not (pack / "tests").exists()
    assert f"{pack}\n" in server.log_path.read_text()  # the host's list of import times
    assert "(IMPORT FAILED)" not in server.log_path.read_text()


def test_the_front_end_finds_scripts_help_templates_and_texts(server):
    for path in (f"/extensions/{PACK_NAME}/afa.js", f"/extensions/{PACK_NAME}/docs/AFAEnsembleModel.md"):
        assert server.read(path)
    assert server.get(f"/api/workflow_templates/{PACK_NAME}/quick_start.json")["nodes"]
    assert "quick_start" in server.get("/api/workflow_templates")[PACK_NAME]
    assert server.get("/api/i18n")["en"]["nodeDefs"]["AFAEnsembleModel"]


def test_the_quick_start_paints_a_picture(server, tmp_path):
    pictures = demo.run(server, tmp_path, "noto, grinning face, face smiling", steps=2, seed=2)
    assert Image.open(pictures["ensemble"]).getbbox() is not None
    assert Image.open(pictures["ensemble_routing"]).getbbox() is not None
