"""Aggregator files: ours and the authors' layout come back as they were, and what is wrong is said in one sentence."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

from afa_core.aggregator.file import AggregatorError, AggregatorFile, load_aggregator, save_aggregator
from tests.golden.goldweights import aggregator_state, materialise
from tests.support.aggregators import (
    assert_sentence,
    named_aggregator,
    random_aggregator,
    small_config,
    write_authors_layout,
)
from tests.support.mutations import join, nested, split


@pytest.fixture(scope="module")
def sound():
    return named_aggregator()


@pytest.fixture
def path(sound, tmp_path):
    save_aggregator(sound, tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


@pytest.fixture
def folder(tmp_path):
    return write_authors_layout(random_aggregator(small_config()), tmp_path / "authors")


def sentence(path: Path) -> str:
    """What the reader says of a file that it refuses."""
    with pytest.raises(AggregatorError) as refusal:
        load_aggregator(path)
    text = str(refusal.value)
    assert_sentence(text, path)
    return text


def edited(path: Path, edit) -> Path:
    """The file with `edit(header, metadata)` applied."""
    header, data = split(path.read_bytes())
    edit(header, header["__metadata__"])
    path.write_bytes(join(header, data))
    return path


def with_config(path: Path, **changes) -> Path:
    def edit(header, metadata):
        metadata["config"] = json.dumps({**json.loads(metadata["config"]), **changes})

    return edited(path, edit)


def rewrite(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# ---- what is sound comes back as it was ----


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_ours_comes_back(sound, tmp_path, dtype):
    state = {key: tensor.to(dtype) for key, tensor in sound.state.items()}
    saved = dataclasses.replace(sound, name="x.safetensors", state=state)
    save_aggregator(saved, tmp_path / "deep" / "er" / "x.safetensors")
    loaded = load_aggregator(tmp_path / "deep" / "er" / "x.safetensors")
    for field in dataclasses.fields(AggregatorFile):
        if field.name != "state":
            assert getattr(loaded, field.name) == getattr(saved, field.name)
    assert loaded.state.keys() == state.keys()
    assert all(torch.equal(loaded.state[k], state[k]) and loaded.state[k].dtype == dtype for k in state)


def test_an_aggregator_of_the_last_block_only_comes_back(tmp_path):
    ablated = random_aggregator(small_config(ablations=("blocks",)))
    save_aggregator(ablated, tmp_path / "last.safetensors")
    loaded = load_aggregator(tmp_path / "last.safetensors")
    assert {key.split(".")[1] for key in loaded.state} == {"2"}


def test_the_authors_layout_comes_back_as_ours(folder, tmp_path):
    theirs = load_aggregator(folder)
    assert theirs.name == "authors" and theirs.experts == []
    expected = random_aggregator(small_config())
    assert theirs.state.keys() == expected.state.keys()
    assert all(torch.equal(theirs.state[key], expected.state[key]) for key in expected.state)
    save_aggregator(theirs, tmp_path / "ours.safetensors")
    ours = load_aggregator(tmp_path / "ours.safetensors")
    assert ours.config == theirs.config
    assert all(torch.equal(ours.state[key], theirs.state[key]) for key in theirs.state)


def test_a_golden_folder_is_read_whole(tmp_path):
    materialise("case_b", str(tmp_path / "case_b"))
    golden = load_aggregator(tmp_path / "case_b")
    assert (golden.config.num_experts, golden.config.num_layers, len(golden.config.channels)) == (3, 2, 25)
    for key, expected in aggregator_state("case_b", 12).items():
        assert torch.equal(golden.state[f"aggregators.12.{key}"].float(), torch.from_numpy(expected))


def test_a_loaded_aggregator_no_longer_needs_its_file(path, sound):
    """Else it could not be trained again under its name on Windows, and its truncation would end the host."""
    loaded = load_aggregator(path)
    path.write_bytes(b"")
    assert all(torch.equal(loaded.state[key], sound.state[key]) for key in sound.state)


def test_what_strangers_wrote_is_fit_to_be_shown(path):
    names = [{"file": "\x1b[31m\n\u202e" + "x" * 1000}, {"file": "<b>../two</b>"}]
    loaded = load_aggregator(edited(path, lambda header, metadata: metadata.update(experts=json.dumps(names))))
    shown = [expert["file"] for expert in loaded.experts]
    assert all(name.isprintable() and len(name) < 256 for name in shown)
    assert shown[1] == "<b>../two</b>"  # escaped where it is shown


# ---- what is wrong is said ----


def test_another_kind_of_file(path):
    edited(path, lambda header, metadata: metadata.pop("format"))
    assert "format 'afa', found None" in sentence(path)
    path.write_bytes(b"PK\x03\x04 not safetensors at all")
    assert "cannot be read as .safetensors" in sentence(path)


def test_an_unknown_version(path):
    edited(path, lambda header, metadata: metadata.update(version="2"))
    assert "version '2'" in (text := sentence(path)) and "reads version '1': update the pack" in text


@pytest.mark.parametrize("kept", [0, 5, 8, 1000, 0.5, -1])
def test_a_truncated_file(path, kept):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    assert "truncated, still downloading" in sentence(path)


def test_a_missing_file(tmp_path):
    assert "no longer there" in sentence(tmp_path / "gone.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_device_in_place_of_a_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "no longer there" in sentence(tmp_path / "pipe.safetensors")


def test_a_file_that_may_not_be_read(path, monkeypatch):
    """By the error that the system gives, as a test that runs as root may read everything."""

    def denied(self, *_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    assert "cannot be read (Permission denied): check the file and its permissions" in sentence(path)


def test_missing_and_surplus_and_misshapen_tensors(path):
    whole = path.read_bytes()
    key = "aggregators.1.conv_in.weight"
    edited(path, lambda header, metadata: header.update({"more": header.pop(key)}))
    assert f"{key} should be of shape [64, 16, 1, 1], found absent" in sentence(path)
    path.write_bytes(whole)
    edited(
        path, lambda header, metadata: header.update({"\nmore": {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}})
    )
    assert "?more should be absent, found of shape [0]" in sentence(path)
    path.write_bytes(whole)
    edited(path, lambda header, metadata: header[key].update(shape=[16, 64, 1, 1]))
    assert f"{key} should be of shape [64, 16, 1, 1], found of shape [16, 64, 1, 1]" in sentence(path)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_nan_and_infinite_weights(path, sound, odd, dtype):
    from safetensors.torch import save_file

    header, _ = split(path.read_bytes())
    state = {key: tensor.to(dtype, copy=True) for key, tensor in sound.state.items()}
    state["aggregators.2.conv_out.weight"][1, 5] = odd
    save_file(state, path, header["__metadata__"])
    assert "aggregators.2.conv_out.weight holds NaN or infinite numbers" in sentence(path)


def test_double_precision_beyond_single_is_infinite(path, sound):
    from safetensors.torch import save_file

    header, _ = split(path.read_bytes())
    state = {key: tensor.double() for key, tensor in sound.state.items()}
    state["aggregators.0.conv_in.bias"][0] = 1e300
    save_file(state, path, header["__metadata__"])
    assert "aggregators.0.conv_in.bias holds NaN or infinite" in sentence(path)


def test_numbers_of_the_wrong_kind(path):
    edited(path, lambda header, metadata: header["aggregators.0.conv_in.bias"].update(dtype="I16"))
    assert "aggregators.0.conv_in.bias should be one of F16, BF16, F32, F64, found I16" in sentence(path)


CONFIGS = {
    "num_experts": (1, "a whole number from 2 to 8, found 1"),
    "hidden_size": (100, "hidden_size should be a multiple of 32 and of num_heads (8), found 100"),
    "num_heads": (7, "hidden_size should be a multiple of 32 and of num_heads (7), found 64"),
    "num_layers": (10**12, "num_layers should be a whole number from 1 to 32, found 1000000000000"),
    "text_width": (-1, "text_width should be a whole number from 1 to 16384, found -1"),
    "time_width": (True, "time_width should be a whole number from 1 to 65536, found True"),
    "channels": ([4], "channels should list 2 to 256 fusion points, found (4,)"),
    "architecture": ("a\nb", "architecture should be a short text on one line, found 'a\\nb'"),
    "ablations": (["memory"], "ablations should be among time, text, space, blocks, found ('memory',)"),
    "width": (5, "and has 'width'"),
}


@pytest.mark.parametrize("field", CONFIGS)
def test_a_configuration_that_no_aggregator_has(path, field):
    value, expected = CONFIGS[field]
    assert expected in sentence(with_config(path, **{field: value}))


def test_more_that_no_aggregator_has(path):
    whole = path.read_bytes()
    assert "hidden_size should be 64 or more" in sentence(with_config(path, hidden_size=32))
    path.write_bytes(whole)
    assert "channels should be a whole number from 1 to 65536, found 'x'" in sentence(
        with_config(path, channels=[4, "x"])
    )
    path.write_bytes(whole)
    edited(path, lambda header, metadata: metadata.update(config="{}"))
    assert "lacks 'architecture, channels" in sentence(path)
    edited(path, lambda header, metadata: metadata.update(config="[]"))
    assert "config should be an object, found list" in sentence(path)
    edited(path, lambda header, metadata: metadata.update(config="{'a'"))
    assert "config is not JSON" in sentence(path)


def test_a_configuration_of_another_size_than_the_tensors(path):
    """Found by the header alone: the tensors that this one asks for would take 600 GB."""
    text = sentence(with_config(path, hidden_size=4096, num_layers=32, channels=[65536] * 256))
    assert "aggregators.0.conv_in.weight should be of shape [4096, 131072, 1, 1], found of shape [64, 8, 1, 1]" in text


@pytest.mark.parametrize("experts", ['[{"file": "a"}]', '{"file": "a"}', '["a", "b"]', '[{"file": 1}, {"file": 2}]'])
def test_experts_that_cannot_be_read(path, experts):
    edited(path, lambda header, metadata: metadata.update(experts=experts))
    assert "its header should name 2 experts, or none" in sentence(path)


@pytest.mark.parametrize("field", ["training", "routing"])
def test_odd_metadata(path, field):
    whole = path.read_bytes()
    edited(path, lambda header, metadata: metadata.update({field: "[1]"}))
    assert f"{field} should hold an object, found list" in sentence(path)
    path.write_bytes(whole)
    edited(path, lambda header, metadata: metadata.update({field: nested(100_000)}))
    assert "nested too deeply" in sentence(path)


def test_a_header_that_would_take_long_to_parse(path):
    edited(path, lambda header, metadata: metadata.update(training=" " * (17 * 2**20)))
    assert "its header should have at most 16777216 bytes" in sentence(path)


def test_a_folder_with_parts_missing(folder):
    (folder / "aggregator_1" / "aggregator.safetensors").unlink()
    assert "aggregator_1/aggregator.safetensors is missing" in sentence(folder)
    (folder / "aggregator_2" / "config.json").unlink()
    assert "aggregator_2/config.json is missing" in sentence(folder)
    (folder / "model_config.json").unlink()
    assert "model_config.json is missing" in sentence(folder)


def test_a_folder_with_a_damaged_part(folder):
    (folder / "aggregator_1" / "aggregator.safetensors").write_bytes(b"half")
    assert "authors (aggregator_1/aggregator.safetensors) cannot be read" in sentence(folder)
    (folder / "aggregator_1" / "config.json").write_bytes(b"\xff\xfe")
    assert "aggregator_1/config.json is not text" in sentence(folder)
    (folder / "aggregator_1" / "config.json").write_text("[]")
    assert "aggregator_1/config.json should hold an object, found list" in sentence(folder)
    (folder / "aggregator_0" / "config.json").write_text(" " * (2**20 + 1))
    assert "aggregator_0/config.json should have at most 1048576 bytes" in sentence(folder)


def test_a_folder_that_contradicts_itself(folder):
    rewrite(folder / "model_config.json", num_models=3)
    assert "model_config.json says 3 models and aggregator_0 says 2" in sentence(folder)
    rewrite(folder / "aggregator_2" / "config.json", hidden_size=128)
    assert "hidden_size is 64 in aggregator_0 and 128 in aggregator_2" in sentence(folder)
    rewrite(folder / "model_config.json", num_aggregators=10**9)
    assert "num_aggregators should be a whole number from 2 to 256, found 1000000000" in sentence(folder)


def test_a_folder_whose_tensors_have_other_shapes(folder):
    rewrite(folder / "aggregator_1" / "config.json", in_channels=9)
    assert "aggregator_1: conv_in.weight should be of shape [64, 18, 1, 1], found of shape [64, 16, 1, 1]" in sentence(
        folder
    )
