"""A full disk and a folder that may not be written to: an error of one sentence, no half file, the old file as it was."""

import os
import time
from pathlib import Path

import pytest
import torch

from afa_core.aggregator.file import AggregatorError, save_aggregator
from afa_core.atomic_file import SavingError, replacing
from afa_core.host.architectures.unet_layout import unet_merge_blocks
from afa_core.training.resume import save_state
from afa_core.training.state import Training, TrainingSettings, TrainingState
from tests.support.aggregators import random_aggregator, small_config
from tests.support.faults import full_disk
from tests.support.toy_training import run, task
from tests.support.training_toys import toy_dataset


def aggregator(path, seed):
    save_aggregator(random_aggregator(small_config(), seed), path)


def checkpoint(path, seed):
    save_state(Training(task(seed), toy_dataset(), TrainingSettings(), TrainingState({})), path)


def journal(path, seed):
    from afa_core.merging.journal import Journal
    from afa_core.merging.search import SearchSpace

    space = SearchSpace(2, unet_merge_blocks(12, 12))
    Journal(path, space, {"seed": seed}).add(space.uniform, [0.5] * 1000)


WRITERS = {"a.safetensors": aggregator, "a.resume": checkpoint, "search.json": journal}


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_full_disk(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path, 0)
    before = path.read_bytes()
    with full_disk(), pytest.raises((SavingError, AggregatorError)) as failure:
        WRITERS[name](path, 1)
    assert str(failure.value).startswith(f"{name} could not be saved in {tmp_path} (")
    assert str(failure.value).endswith("): make room there, or allow writing.")
    assert os.listdir(tmp_path) == [name] and path.read_bytes() == before


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_folder_that_not_even_root_may_write_to(name):
    with pytest.raises((SavingError, AggregatorError), match=f"{name} could not be saved in /sys/models/afa"):
        WRITERS[name](Path("/sys/models/afa", name), 0)


def test_a_cache_on_a_full_disk(comfy_host, pack, tmp_path, monkeypatch):
    from afa_core.host.training import cache as module

    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path)
    cache = module.Cache()
    with full_disk(), pytest.raises(SavingError, match="make room there"):
        cache.put("ab" * 32, {"latent": torch.zeros(4, 64, 64)})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    cache.put("ab" * 32, {"latent": torch.ones(4, 64, 64)})
    assert cache.get("ab" * 32)["latent"].sum() == 4 * 64 * 64


def test_a_disk_that_fills_up_while_training(tmp_path):
    """What was saved last is whole, and the training goes on from it to the same numbers."""
    (tmp_path / "whole").mkdir()
    whole, expected = run(tmp_path / "whole", 17)
    limit = full_disk()

    def fill(report):
        if report.state.step == 7:
            limit.__enter__()

    try:
        with pytest.raises(SavingError, match="toy.resume could not be saved"):
            run(tmp_path, 17, fill)
    finally:
        limit.__exit__(None, None, None)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]
    file, state = run(tmp_path, 17)
    assert state.losses == expected.losses
    assert all(torch.equal(file.state[key], whole.state[key]) for key in whole.state)


def test_what_a_crash_left_half_written_goes_with_the_next_save(tmp_path):
    path = tmp_path / "mine [1].json"
    fresh, old = tmp_path / f".{path.name}.fresh.part", tmp_path / f".{path.name}.old.part"
    other = tmp_path / ".mine 1.json.old.part"
    for draft in (fresh, old, other):
        draft.write_text("half")
    for draft in (old, other):
        os.utime(draft, (time.time() - 7200,) * 2)
    with replacing(path) as draft:
        draft.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, fresh, other])
