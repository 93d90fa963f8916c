"""What the face of the node learns of an aggregator: whatever a stranger wrote, short texts and numbers come out."""

import json
import struct

import pytest

from afa_core.aggregator.file import save_aggregator
from afa_core.aggregator.summary import LONGEST, read_summary
from tests.support.aggregators import random_aggregator, small_config, write_authors_layout


def header_only(path, **metadata):
    """A .safetensors file without tensors, with this metadata."""
    text = json.dumps({"__metadata__": {"format": "afa", **metadata}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def test_a_sound_file_tells_its_experts(tmp_path):
    experts = [{"file": f"{name}.safetensors", "sha256": "0" * 64, "prediction": "eps"} for name in "ab"]
    aggregator = random_aggregator(small_config(), experts=experts, training={"steps": 7, "losses": [1.0, 0.5]})
    save_aggregator(aggregator, tmp_path / "x.safetensors")
    summary = read_summary(tmp_path / "x.safetensors")
    assert summary["experts"] == [{"file": f"{name}.safetensors", "prediction": "eps"} for name in "ab"]
    assert (summary["num_experts"], summary["architecture"]) == (2, "toy")
    assert summary["training"] == {"steps": 7}  # lists are not for the face


def test_a_folder_in_the_authors_layout_tells_its_number(tmp_path):
    folder = write_authors_layout(random_aggregator(small_config()), tmp_path / "authors")
    assert read_summary(folder)["num_experts"] == 2


def test_what_strangers_write_comes_out_short_and_of_the_right_kind(tmp_path):
    experts = [{"file": 5, "prediction": ["x"]}, "none", {"file": "a" * 5000 + "\u202e"}] + [{}] * 50
    odd = {"steps": float("inf"), "seed": True, "note": "b\n" * 5000, "deep": {"x": 1}, "k" * 500: 1}
    path = header_only(
        tmp_path / "odd.safetensors",
        config=json.dumps({"num_experts": "two", "architecture": 3}),
        experts=json.dumps(experts),
        training=json.dumps(odd),
        routing=json.dumps({"mean": [0.5, "x", float("nan")] * 50}),
    )
    summary = read_summary(path)
    assert [expert["file"] for expert in summary["experts"][:2]] == ["", ""]
    assert len(summary["experts"][2]["file"]) == LONGEST
    assert len(summary["experts"]) == len(summary["routing"]["mean"]) == 8
    assert set(summary["training"]) == {"note", "k" * 40}
    assert "\n" not in summary["training"]["note"]
    assert len(json.dumps(summary, allow_nan=False)) < 5000


@pytest.mark.parametrize(
    "text", [b"", b"12", struct.pack("<Q", 2**60), struct.pack("<Q", 4) + b"nope", struct.pack("<Q", 2) + b"[]"]
)
def test_what_is_no_aggregator_is_refused(tmp_path, text):
    (tmp_path / "x.safetensors").write_bytes(text)
    with pytest.raises(ValueError):
        read_summary(tmp_path / "x.safetensors")


def test_nesting_does_not_exhaust_the_stack(tmp_path):
    path = header_only(tmp_path / "deep.safetensors", training="[" * 200_000)
    with pytest.raises(ValueError):
        read_summary(path)
