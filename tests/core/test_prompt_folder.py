"""What is read from a folder of prompts, what is left out, and what no folder may do."""

import json
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from afa_core.training.data import pictures as pictures_module
from afa_core.training.data.pictures import PictureError, picture_size, read_picture
from afa_core.training.data.prompt_folder import PromptFolderError, read_prompt_folder
from afa_core.training.data.split import kept_apart


def paint(path, colour="red", size=(16, 24), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def captions(folder):
    return {item.name: item.caption for item in folder.items}


def reasons(folder):
    return dict(folder.skipped)


# ---- what is read ----


@pytest.mark.parametrize("ending", ["png", "jpg", "jpeg", "webp", "bmp", "PNG"])
@pytest.mark.parametrize("text", ["txt", "caption", "TXT"])
def test_pictures_with_a_text_of_the_same_name(tmp_path, ending, text):
    paint(tmp_path / f"a cat.{ending}")
    write(tmp_path / f"a cat.{text}", "\ufeff a red\n cat \n")
    (item,) = read_prompt_folder(tmp_path).items
    assert (item.caption, item.size, item.repeats, item.domain) == ("a red cat", (16, 24), 1, "")
    assert item.path == tmp_path / f"a cat.{ending}"


def test_sub_folders_repeats_and_domains(tmp_path):
    for name in ("10_cats/a.png", "10_cats/in/b.png", "dogs/3_big dogs/c.png", "2024_trip/d.png", "e.png"):
        paint(tmp_path / name)
        write((tmp_path / name).with_suffix(".txt"), "something")
    folder = read_prompt_folder(tmp_path)
    found = {item.name: (item.repeats, item.domain) for item in folder.items}
    assert found == {
        "10_cats/a.png": (10, "cats"),
        "10_cats/in/b.png": (10, "cats"),
        "dogs/3_big dogs/c.png": (3, "dogs"),
        "2024_trip/d.png": (1, "2024_trip"),
        "e.png": (1, ""),
    }


def test_a_kohya_folder_names_its_pictures_where_no_caption_does(tmp_path):
    paint(tmp_path / "5_red_cat" / "a.png")
    paint(tmp_path / "5_red_cat" / "b.png")
    write(tmp_path / "5_red_cat" / "b.txt", "a cat asleep")
    assert captions(read_prompt_folder(tmp_path)) == {"5_red_cat/a.png": "red_cat", "5_red_cat/b.png": "a cat asleep"}


def test_metadata_jsonl(tmp_path):
    paint(tmp_path / "train" / "a.png")
    paint(tmp_path / "train" / "deep" / "b.png")
    paint(tmp_path / "train" / "c.png")
    write(tmp_path / "train" / "c.txt", "its own text wins")
    rows = [
        {"file_name": "a.png", "text": "first"},
        {"file_name": "deep\\b.png", "text": "second", "width": 3},
        {"file_name": "c.png", "text": "third"},
    ]
    write(tmp_path / "train" / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    found = captions(read_prompt_folder(tmp_path))
    assert found == {"train/a.png": "first", "train/deep/b.png": "second", "train/c.png": "its own text wins"}


def test_prompts_only(tmp_path):
    write(tmp_path / "many.txt", "a cat\n\n  a dog \r\n")
    write(tmp_path / "4_birds" / "one.txt", "a bird")
    write(tmp_path / "README.txt", "read me")
    write(tmp_path / "empty.txt", " \n")
    write(tmp_path / "held_out.txt", "a dog")
    folder = read_prompt_folder(tmp_path)
    assert captions(folder) == {"many.txt:00001": "a cat", "many.txt:00002": "a dog", "4_birds/one.txt": "a bird"}
    assert not folder.has_pictures and all(item.path is None for item in folder.items)
    assert [item.repeats for item in folder.items] == [4, 1, 1]
    assert folder.held_out == {"a dog"}
    assert reasons(folder) == {"README.txt": "does not look like prompts", "empty.txt": "is empty"}


def test_one_file_of_prompts_is_a_folder_too(tmp_path):
    file = write(tmp_path / "prompts.txt", "a cat\na dog")
    paint(tmp_path / "unrelated.png")
    assert [item.caption for item in read_prompt_folder(file).items] == ["a cat", "a dog"]


def test_windows_texts_are_read(tmp_path):
    paint(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("a caf\u00e9".encode("utf-16"))
    assert captions(read_prompt_folder(tmp_path)) == {"a.png": "a caf\u00e9"}


# ---- what is left out ----


def test_what_cannot_be_used_is_reported(tmp_path):
    for name in ("good", "empty", "latin", "nothing", "broken", "text", "tiny"):
        paint(tmp_path / f"{name}.png")
        write(tmp_path / f"{name}.txt", name)
    paint(tmp_path / "tiny.png", size=(4, 400))
    (tmp_path / "empty.txt").write_text(" \n ")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "nothing.txt").unlink()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 20)
    (tmp_path / "text.png").write_text("no picture at all")
    folder = read_prompt_folder(tmp_path)
    assert captions(folder) == {"good.png": "good"}
    assert reasons(folder) == {
        "empty.png": "has an empty caption",
        "latin.txt": "is not UTF-8 text",
        "latin.png": "has an empty caption",
        "nothing.png": "has no caption (a .txt of the same name)",
        "broken.png": "is broken or no picture",
        "text.png": "is broken or no picture",
        "tiny.png": "is smaller than 8 pixels",
    }


def png_header(width, height):
    """A PNG that claims a size and holds nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )


@pytest.mark.parametrize("side", [10_000, 40_000])
def test_a_huge_picture_is_refused_by_its_header(tmp_path, side, recwarn):
    """10,000 pixels square the picture library only warns of; at 40,000 it refuses itself."""
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_header(side, side) + b"\0\0\0\0IDAT")
    with pytest.raises(PictureError, match="more than 80 million pixels"):
        picture_size(bomb)
    assert not recwarn.list


def test_other_formats_under_a_known_ending_are_refused(tmp_path):
    """Decoders of rarer formats have a worse record; a .png that is a TIFF or EPS is not opened by them."""
    for format in ("TIFF", "GIF", "PPM"):
        Image.new("RGB", (16, 16)).save(tmp_path / "a.png", format=format)
        with pytest.raises(PictureError, match="no picture"):
            picture_size(tmp_path / "a.png")


def test_pictures_of_other_kinds_are_named_and_never_taken_for_prompts(tmp_path):
    for name in ("a.avif", "b.tif", "c.HEIC"):
        (tmp_path / name).write_bytes(b"a picture")
        (tmp_path / name).with_suffix(".txt").write_text("a caption")
    with pytest.raises(PromptFolderError, match=r"a.avif is of a kind that is not read \(save it as PNG\)"):
        read_prompt_folder(tmp_path)
    Image.new("RGB", (16, 16)).save(tmp_path / "d.jfif", format="JPEG")
    (tmp_path / "d.txt").write_text("a caption")
    folder = read_prompt_folder(tmp_path)
    assert [item.name for item in folder.items] == ["d.jfif"] and len(folder.skipped) == 3


@pytest.mark.parametrize("name", ["../outside.png", "/etc/outside.png", "..\\outside.png", "C:\\outside.png", "x/../../outside.png"])  # fmt: skip
def test_metadata_cannot_lead_out_of_its_folder(tmp_path, name):
    paint(tmp_path / "outside.png")
    paint(tmp_path / "in" / "x" / "good.png")
    rows = [{"file_name": name, "text": "stolen"}, {"file_name": "x/good.png", "text": "good"}]
    write(tmp_path / "in" / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    folder = read_prompt_folder(tmp_path / "in")
    assert captions(folder) == {"x/good.png": "good"}
    assert folder.skipped == [("metadata.jsonl:1", "names a file outside its folder")]


def test_links_cannot_lead_out_of_the_folder(tmp_path):
    paint(tmp_path / "secret" / "a.png")
    inside = tmp_path / "in"
    paint(inside / "good.png")
    write(inside / "good.txt", "good")
    os.symlink(tmp_path / "secret" / "a.png", inside / "link.png")
    write(inside / "link.txt", "stolen")
    os.symlink(tmp_path / "secret", inside / "folder")
    folder = read_prompt_folder(inside)
    assert captions(folder) == {"good.png": "good"}
    assert reasons(folder) == {
        "folder": "is a link to a folder, which is not followed",
        "link.png": "is a link that leads out of the folder",
    }


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="file names are Unicode there")
def test_a_folder_whose_name_is_in_another_encoding(tmp_path):
    """As an archive leaves it that was packed elsewhere: its name is a caption, and what items are drawn by."""
    paint(Path(os.fsdecode(os.fsencode(tmp_path) + b"/10_m\xfcnchen")) / "a.png")
    (item,) = read_prompt_folder(tmp_path).items
    assert item.caption == "m?nchen"
    assert kept_apart([item.content], [item.domain], [False], 0.0, 1) == set()


def test_a_name_that_no_file_can_have_is_reported(tmp_path):
    paint(tmp_path / "good.png")
    write(tmp_path / "metadata.jsonl", json.dumps({"file_name": "x" * 300, "text": "a caption in the wrong place"}))
    write(tmp_path / "good.txt", "good")
    assert reasons(read_prompt_folder(tmp_path)) == {"metadata.jsonl:1": f"names {'x' * 80}, which does not exist"}


@given(st.lists(st.one_of(st.text(max_size=40), st.binary(max_size=40).map(repr)), max_size=8))
def test_no_metadata_is_fatal(tmp_path_factory, lines):
    root = tmp_path_factory.mktemp("folder")
    paint(root / "a.png")
    rows = [*lines, json.dumps({"file_name": "a.png", "text": "good"}), '{"file_name": 3}', "[[[[", "null", '{"file_name": "b.png", "text": "x"}']  # fmt: skip
    (root / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8", errors="replace")
    folder = read_prompt_folder(root)
    assert captions(folder) == {"a.png": "good"}
    assert len(folder.skipped) >= 4


@pytest.mark.parametrize("files", [[], ["notes.md"], ["a.png"], ["a.txt"]])
def test_an_empty_folder_says_what_was_expected(tmp_path, files):
    for name in files:
        (tmp_path / name).write_text("")
    with pytest.raises(PromptFolderError, match=r"put pictures .* with a \.txt of the same name") as refusal:
        read_prompt_folder(tmp_path)
    assert str(refusal.value).count(".\n") == 0 and str(tmp_path) in str(refusal.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(PromptFolderError, match="does not exist"):
        read_prompt_folder(tmp_path / "gone")


# ---- the digest ----


def test_the_digest_tells_every_change(tmp_path):
    paint(tmp_path / "x" / "a.png")
    text = write(tmp_path / "x" / "a.txt", "a cat")
    paint(tmp_path / "x" / "b.png", "blue")
    write(tmp_path / "x" / "b.txt", "a dog")
    seen = [read_prompt_folder(tmp_path).digest]
    assert read_prompt_folder(tmp_path).digest == seen[0]
    text.write_text("a kitten")
    seen.append(read_prompt_folder(tmp_path).digest)
    paint(tmp_path / "x" / "a.png", "green")
    seen.append(read_prompt_folder(tmp_path).digest)
    (tmp_path / "x").rename(tmp_path / "2_x")
    seen.append(read_prompt_folder(tmp_path).digest)
    write(tmp_path / "held_out.txt", "a dog")
    seen.append(read_prompt_folder(tmp_path).digest)
    assert len(set(seen)) == len(seen)


def test_the_digest_does_not_depend_on_where_the_folder_is(tmp_path):
    digests = []
    for root in (tmp_path / "one", tmp_path / "two"):
        paint(root / "a.png")
        write(root / "a.txt", "a cat")
        digests.append(read_prompt_folder(root).digest)
    assert digests[0] == digests[1]


def test_reading_can_be_interrupted(tmp_path):
    paint(tmp_path / "a.png")
    write(tmp_path / "a.txt", "a cat")

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_prompt_folder(tmp_path, stop)


# ---- colour modes ----


@pytest.mark.parametrize(
    ("mode", "colour", "ending", "expected"),
    [
        ("RGB", (255, 0, 0), "png", (1, 0, 0)),
        ("L", 51, "png", (0.2, 0.2, 0.2)),
        ("1", 1, "png", (1, 1, 1)),
        ("P", 0, "png", (0, 0, 0)),
        ("LA", (0, 51), "png", (0.8, 0.8, 0.8)),
        ("RGBA", (255, 0, 0, 51), "png", (1, 0.8, 0.8)),
        ("RGBA", (255, 0, 0, 51), "webp", (1, 0.8, 0.8)),
        ("CMYK", (0, 255, 255, 0), "jpg", (1, 0, 0)),
    ],
)
def test_colour_modes_become_rgb_on_white(tmp_path, mode, colour, ending, expected):
    picture = read_picture(paint(tmp_path / f"a.{ending}", colour, (16, 24), mode))
    assert picture.shape == (3, 24, 16) and picture.dtype == torch.float32
    torch.testing.assert_close(picture[:, 5, 5], torch.tensor(expected).float(), atol=0.02, rtol=0)


def test_a_transparent_palette_is_on_white(tmp_path):
    paint(tmp_path / "a.png", (255, 0, 0, 0), mode="RGBA")
    Image.open(tmp_path / "a.png").quantize().save(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").mode == "P"
    assert read_picture(tmp_path / "p.png").min() == 1


def test_sixteen_bits_keep_their_range(tmp_path):
    values = numpy.linspace(0, 65535, 256, dtype=numpy.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    torch.testing.assert_close(picture[1].flatten(), torch.linspace(0, 1, 256), atol=1e-4, rtol=0)


def test_a_turned_photograph_is_upright(tmp_path):
    picture = Image.new("RGB", (32, 16), "red")
    picture.paste("blue", (0, 0, 16, 16))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert picture_size(tmp_path / "a.jpg") == (16, 32)
    upright = read_picture(tmp_path / "a.jpg")
    assert upright.shape == (3, 32, 16)
    assert upright[2, 4, 8] > 0.8 and upright[0, 28, 8] > 0.8


@pytest.mark.parametrize(("kind", "count", "value"), [(3, 1, b"\0\0\0\0"), (3, 1, b"\x09\0\0\0"), (2, 2, b"6\0\0\0")])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path, kind, count, value):
    """Programs write any number, and any kind of value."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, kind, count) + value + bytes(4)
    Image.new("RGB", (32, 16), "red").save(tmp_path / "a.jpg", exif=exif)
    assert picture_size(tmp_path / "a.jpg") == (32, 16)
    assert read_picture(tmp_path / "a.jpg").shape == (3, 16, 32)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_truncated_picture_is_broken_not_fatal(tmp_path, ending):
    noise = numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=numpy.uint8)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PictureError, match="is broken"):
        read_picture(path)


@given(st.binary(min_size=0, max_size=200), st.integers(0, 400))
def test_no_bytes_are_fatal(tmp_path_factory, noise, at):
    path = paint(tmp_path_factory.mktemp("picture") / "a.png", size=(64, 64))
    data = bytearray(path.read_bytes())
    data[at : at + len(noise)] = noise
    path.write_bytes(data)
    try:
        width, height = picture_size(path)
        assert width * height <= pictures_module.MOST_PIXELS
        assert read_picture(path).shape == (3, height, width)
    except PictureError as error:
        assert str(error).startswith(("is ", "has "))
