"""An aggregator is saved whole or not at all."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from afa_core.aggregator.file import AggregatorError, save_aggregator
from tests.support.aggregators import named_aggregator, random_aggregator


@pytest.fixture(scope="module")
def sound():
    return named_aggregator()


@pytest.fixture
def path(sound, tmp_path):
    save_aggregator(sound, tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def test_saving_leaves_nothing_but_the_file(path):
    assert os.listdir(path.parent) == [path.name]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask  # readable to all users that may read what ComfyUI saves


@pytest.mark.parametrize("moment", ["save_file", "os.fsync", "os.replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_the_old_file(path, sound, monkeypatch, moment, error):
    import afa_core.atomic_file

    before = path.read_bytes()

    def fail(state, draft=None, *_):
        if moment == "save_file":
            Path(draft).write_bytes(b"half")
        raise error

    monkeypatch.setattr(f"afa_core.atomic_file.{moment}", fail)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else AggregatorError
    with pytest.raises(expected) as failure:
        save_aggregator(random_aggregator(sound.config, seed=7), path)
    if expected is AggregatorError:
        assert "could not be saved in" in str(failure.value) and "No space left on device" in str(failure.value)
    monkeypatch.undo()
    assert afa_core.atomic_file.os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written(tmp_path, sound):
    (tmp_path / "afa").write_text("a file where the folder should be")
    with pytest.raises(
        AggregatorError, match="x.safetensors could not be saved in .*make room there, or allow writing"
    ):
        save_aggregator(sound, tmp_path / "afa" / "x.safetensors")


def test_what_would_not_load_again_is_not_saved(path, sound):
    before = path.read_bytes()
    state = {**sound.state, "aggregators.0.conv_in.bias": torch.full((64,), float("nan"))}
    with pytest.raises(AggregatorError, match="aggregators.0.conv_in.bias holds NaN"):
        save_aggregator(dataclasses.replace(sound, state=state), path)
    with pytest.raises(AggregatorError, match="aggregators.1.conv_in.bias should be of shape \\[64\\], found absent"):
        save_aggregator(
            dataclasses.replace(
                sound, state={k: v for k, v in sound.state.items() if k != "aggregators.1.conv_in.bias"}
            ),
            path,
        )
    assert path.read_bytes() == before
