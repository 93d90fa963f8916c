"""Where prompt folders may lie, that reading them ends when it should, and that known pictures are not read again."""

import os
import shutil

import pytest
from PIL import Image

from afa_core.training.data import prompt_folder as core
from afa_core.training.data.prompt_folder import PromptFolderError, picture_digest, read_prompt_folder

OPEN = ["0.0.0.0", "0.0.0.0,::", "127.0.0.1,192.168.1.5", "studio.local", "", "::"]
CLOSED = ["127.0.0.1", "localhost", "::1", "127.0.0.1, ::1", "127.2.2.2"]


@pytest.fixture
def folders(comfy_host):
    """The module, with nothing known of any picture."""
    from afa_core.host.training import cache, prompt_folders

    shutil.rmtree(cache.cache_folder(), ignore_errors=True)
    return prompt_folders


@pytest.fixture
def listen(folders, monkeypatch):
    return lambda addresses: monkeypatch.setattr(folders.args, "listen", addresses)


@pytest.fixture
def pictures(tmp_path):
    """Three captioned pictures that were painted a while ago."""
    for i in range(3):
        path = tmp_path / "set" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (80 * i, 0, 0)).save(path)
        path.with_suffix(".txt").write_text(f"picture {i}")
        os.utime(path, (1e9, 1e9))
    return tmp_path / "set"


# ---- where ----


def test_folders_are_found_below_the_input_folder_only(folders):
    import folder_paths

    assert str(folders.prompt_folder_path("cats")) == f"{folder_paths.get_input_directory()}/cats"
    assert str(folders.prompt_folder_path(" /data/cats ")) == "/data/cats"
    for text, said in (("../secret", "leads out"), ("  ", "No prompt folder")):
        with pytest.raises(PromptFolderError, match=said):
            folders.prompt_folder_path(text)


@pytest.mark.parametrize("addresses", CLOSED)
def test_any_folder_is_open_where_only_this_machine_is_served(folders, listen, pictures, addresses):
    listen(addresses)
    assert len(folders.read_named_folder(str(pictures)).items) == 3


@pytest.mark.parametrize("addresses", OPEN)
def test_on_a_network_only_the_owners_folders_are_open(folders, listen, pictures, addresses, monkeypatch):
    import folder_paths

    listen(addresses)
    inside = folder_paths.get_input_directory()
    for text in ("cats", f"{inside}/cats", inside):
        assert folders.prompt_folder_path(text)
    how = "is not open, since this ComfyUI listens to a network: put it into .* extra_model_paths.yaml"
    for text in (str(pictures), "/", f"{inside}/../models", f"{inside}_other", "/etc/passwd"):
        with pytest.raises(PromptFolderError, match=how):
            folders.read_named_folder(text)
        assert "is not open" in folders.prompt_folder_stamp(text)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "afa_datasets", ([str(pictures.parent)], set()))
    assert len(folders.read_named_folder(str(pictures)).items) == 3


def test_on_a_network_no_link_leads_out(folders, listen, pictures):
    import folder_paths

    link = os.path.join(folder_paths.get_input_directory(), "link")
    os.symlink(pictures, link)
    try:
        assert len(folders.read_named_folder("link").items) == 3
        listen("0.0.0.0")
        with pytest.raises(PromptFolderError, match="is not open"):
            folders.prompt_folder_path("link")
    finally:
        os.unlink(link)


def test_the_nodes_refuse_what_is_not_open(folders, listen, pack, comfy_host, checkpoint, pictures):
    listen("0.0.0.0")
    a, clip, vae = checkpoint("tiny_sd15_a")
    b = checkpoint("tiny_sd15_b")[0]
    with pytest.raises(PromptFolderError, match="is not open"):
        comfy_host.call("AFAProbe", model_1=a, model_2=b, clip=clip, vae=vae, prompt_folder=str(pictures))


# ---- how much, and how long ----


def test_a_scan_is_bounded(folders, pictures, monkeypatch):
    monkeypatch.setattr(core, "MOST_FILES", 6)
    with pytest.raises(PromptFolderError, match="holds more than 6 files: choose the folder of the pictures alone"):
        folders.read_named_folder(str(pictures))
    assert "holds more than 6 files" in folders.prompt_folder_stamp(str(pictures))
    monkeypatch.setattr(core, "MOST_FILES", 7)
    assert len(folders.read_named_folder(str(pictures)).items) == 3


def test_a_scan_can_be_cancelled(folders, pictures, monkeypatch):
    """By the host's button, also while it asks whether the folder has changed: then the node that runs next ends."""
    import comfy.model_management as memory

    memory.interrupt_current_processing()
    assert folders.prompt_folder_stamp(str(pictures)) == "interrupted"
    monkeypatch.setattr(folders, "picture_digest", lambda path: pytest.fail("a picture was read"))
    with pytest.raises(memory.InterruptProcessingException):
        folders.read_named_folder(str(pictures))


def test_the_trainer_can_be_cancelled_while_it_reads_the_folder(folders, pack, comfy_host, pictures):
    import comfy.model_management as memory

    from tests.support.node_trainer import Trainer

    trainer = Trainer(comfy_host, pictures)
    memory.interrupt_current_processing()
    trainer.error_of(memory.InterruptProcessingException, "cancelled")


# ---- what is known ----


def test_known_pictures_are_not_read_again(folders, pictures, monkeypatch):
    read = []
    monkeypatch.setattr(folders, "picture_digest", lambda path: read.append(path.name) or picture_digest(path))
    expected = read_prompt_folder(pictures).digest
    assert folders.read_named_folder(str(pictures)).digest == expected
    assert sorted(read) == ["0.png", "1.png", "2.png"]
    assert folders.read_named_folder(str(pictures)).digest == expected
    assert len(read) == 3
    Image.new("RGB", (64, 64), "white").save(pictures / "1.png")  # just now: it may be written again at once
    for _ in range(2):
        assert folders.read_named_folder(str(pictures)).digest == read_prompt_folder(pictures).digest != expected
    assert read[3:] == ["1.png", "1.png"]
    os.utime(pictures / "1.png", (1.1e9, 1.1e9))
    for _ in range(2):
        folders.read_named_folder(str(pictures))
    assert read[5:] == ["1.png"]


def test_a_torn_list_of_known_pictures_costs_time_only(folders, pictures):
    expected = folders.read_named_folder(str(pictures)).digest
    (known,) = folders.cache_folder().glob("pictures_*.json")
    known.write_text(known.read_text()[:50])
    assert folders.read_named_folder(str(pictures)).digest == expected


def test_the_stamp_changes_with_the_folder(folders, pictures):
    stamps = [folders.prompt_folder_stamp(str(pictures))]
    (pictures / "0.txt").write_text("another caption")
    stamps.append(folders.prompt_folder_stamp(str(pictures)))
    (pictures / "2.png").unlink()
    stamps.append(folders.prompt_folder_stamp(str(pictures)))
    os.symlink(pictures / "nothing.png", pictures / "link.png")
    stamps.append(folders.prompt_folder_stamp(str(pictures)))
    (pictures / "1.txt").unlink()
    stamps.append(folders.prompt_folder_stamp(str(pictures)))
    assert len(set(stamps)) == 5 and stamps[4] == folders.prompt_folder_stamp(str(pictures))
