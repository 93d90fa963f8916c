"""Whatever an aggregator file holds, it is refused in one sentence or sound: no crash, no hang, no giant allocation."""

import json
import random
import resource
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from afa_core.aggregator.file import AggregatorError, load_aggregator, save_aggregator
from afa_core.aggregator.summary import read_summary
from afa_core.fusion.averages import StaticFusion
from afa_core.fusion.points import FusionPoint
from afa_core.fusion.selection import Selection, Selector, routing_table
from tests.support.aggregators import (
    assert_sentence,
    named_aggregator,
    random_aggregator,
    small_config,
    write_authors_layout,
)
from tests.support.mutations import mutate_folder, mutated_file, mutated_routing

FILES, FOLDERS = 900, 150
"""How many mutations of either layout are tried."""


@pytest.fixture
def little_memory():
    """Half a gigabyte more than now: what asks for a giant allocation fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**29, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(path: Path) -> bool:
    """Whether the file was refused; anything but a sound aggregator or one sentence fails the test."""
    started = time.perf_counter()
    summary = {}
    with suppress(ValueError):  # what the browser shows of a file has to stand the same
        summary = read_summary(path)
    assert "NaN" not in json.dumps(summary) and "Infinity" not in json.dumps(summary)
    try:
        loaded = load_aggregator(path)
        json.dumps([loaded.experts, loaded.training, loaded.routing, loaded.config.to_json()])
        assert all(torch.isfinite(tensor).all() for tensor in loaded.state.values())
        assert {key: tuple(t.shape) for key, t in loaded.state.items()} == dict(loaded.config.shapes())
        return False
    except AggregatorError as error:
        assert_sentence(str(error), path)
        return True
    finally:
        assert time.perf_counter() - started < 10


def test_mutated_files(tmp_path, little_memory):
    path = tmp_path / "mine.safetensors"
    save_aggregator(named_aggregator(), path)
    whole = path.read_bytes()
    refused = 0
    for seed in range(FILES):
        path.write_bytes(mutated_file(whole, random.Random(seed)))
        refused += outcome(path)
    assert FILES * 0.6 < refused < FILES  # a bit flipped in a weight is sound


def test_mutated_folders(tmp_path, little_memory):
    folder = write_authors_layout(random_aggregator(small_config()), tmp_path / "authors")
    refused = 0
    for seed in range(FOLDERS):
        shutil.copytree(folder, tmp_path / "mutated")
        mutate_folder(tmp_path / "mutated", random.Random(seed))
        refused += outcome(tmp_path / "mutated")
        shutil.rmtree(tmp_path / "mutated")
    assert FOLDERS * 0.6 < refused < FOLDERS


def test_what_a_loaded_file_is_used_for(tmp_path, little_memory):
    """A table of shares that nobody measured is no table, and whatever is one chooses experts."""
    path = tmp_path / "mine.safetensors"
    sound = named_aggregator()
    points = [FusionPoint(i, f"point {i}", channels, 1) for i, channels in enumerate(sound.config.channels)]
    tables = 0
    for seed in range(FILES):
        routing = mutated_routing([point.name for point in points], 2, random.Random(seed))
        save_aggregator(replace(sound, routing=routing), path)
        table = routing_table(load_aggregator(path).routing, points, 2)
        if table is None:
            continue
        tables += 1
        assert table.shape[1:] == (3, 2) and table.isfinite().all()
        selector = Selector(Selection(skip_below=0.6, table=table), StaticFusion("block average").bind(points, 2), 3)
        for timestep in (0.0, 0.5, 1.0):
            gone = selector.choose(1, lambda level=timestep: level, "batch").left_out
            assert not gone[0] & gone[1], routing
    assert 0 < tables < FILES * 0.5
