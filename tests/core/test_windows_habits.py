"""What Windows refuses and others allow: replacing a file that is open, or that a tensor is mapped to."""

import os
from pathlib import Path

import pytest

from afa_core import atomic_file
from afa_core.aggregator.file import load_aggregator, save_aggregator
from afa_core.atomic_file import SavingError, replacing
from afa_core.training.resume import load_state, save_state
from afa_core.training.state import Training, TrainingSettings, TrainingState
from tests.support.aggregators import random_aggregator, small_config
from tests.support.toy_training import task
from tests.support.training_toys import toy_dataset

MAPS = Path("/proc/self/maps")


def training():
    return Training(task(0), toy_dataset(), TrainingSettings(), TrainingState({}))


@pytest.mark.skipif(not MAPS.exists(), reason="reads what this process has mapped from Linux")
def test_what_was_read_leaves_its_file_free(tmp_path):
    save_aggregator(random_aggregator(small_config(), 0), tmp_path / "a.safetensors")
    save_state(training(), tmp_path / "a.resume")
    aggregator, resumed = load_aggregator(tmp_path / "a.safetensors"), training()
    load_state(resumed, tmp_path / "a.resume")
    assert aggregator and resumed
    assert str(tmp_path) not in MAPS.read_text()


@pytest.fixture
def windows(monkeypatch):
    """windows(n): the next n attempts to replace a file are refused, as by Windows while it is open elsewhere."""
    replace = os.replace

    def refuse(times):
        def refusing(*args):
            nonlocal times
            times -= 1
            if times >= 0:
                raise PermissionError(13, "used by another process")
            replace(*args)

        monkeypatch.setattr(atomic_file.os, "replace", refusing)
        monkeypatch.setattr(atomic_file.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(atomic_file, "WINDOWS_TRIES", 5)
        monkeypatch.setattr(atomic_file, "os", _Named(os, "nt"))

    return refuse


class _Named:
    """A module under another value of `name`: pathlib, which asks os.name as well, keeps the true one."""

    def __init__(self, module, name):
        self.__dict__.update(vars(module), name=name)


@pytest.mark.parametrize(("refusals", "written"), [(0, True), (4, True), (5, True), (6, False)])
def test_a_file_that_is_open_for_a_moment(tmp_path, windows, refusals, written):
    path = tmp_path / "a.json"
    path.write_text("old")
    windows(refusals)
    try:
        with replacing(path) as draft:
            draft.write_text("new")
    except SavingError:
        assert not written
    assert path.read_text() == ("new" if written else "old")
    assert os.listdir(tmp_path) == ["a.json"]
