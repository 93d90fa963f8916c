"""Packages that a user need not have: what asks for one says which, and how it is installed."""

import sys

import pytest

from afa_core.host.architectures.unet_layout import unet_merge_blocks
from afa_core.merging.search import SearchSpace, cma_es
from afa_core.scoring.distribution import inception


def test_without_cmaes_its_search_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(ImportError, match='needs the package cmaes: .*"pip install cmaes", or choose the other method'):
        cma_es(SearchSpace(2, unet_merge_blocks(12, 12)), seed=0)


def test_without_torch_fidelity_fid_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match='need the package torch-fidelity: .*"pip install torch-fidelity"'):
        inception(tmp_path / "weights.pth")
