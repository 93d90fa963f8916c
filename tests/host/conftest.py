"""What several files of tests on the host use."""

import pytest


@pytest.fixture
def expert_error(pack):
    """ExpertError, once the host can be imported."""
    from afa_core.host.experts.experts import ExpertError

    return ExpertError


@pytest.fixture
def models(checkpoint):
    """models("tiny_sd15_a", ...) -> their MODELs."""
    return lambda *names: [checkpoint(name)[0] for name in names]
