"""How many random graphs a property is tried on, and which: AFA_RANDOM_GRAPHS and AFA_RANDOM_SEED say so."""

import os
from collections.abc import Callable

from hypothesis import HealthCheck, seed, settings

SEED = int(os.environ.get("AFA_RANDOM_SEED", "0"))


def examples(default: int) -> Callable[[Callable], Callable]:
    """A decorator beside hypothesis' `given`. default: how many are tried where nothing is said."""
    chosen = settings(
        max_examples=int(os.environ.get("AFA_RANDOM_GRAPHS", default)),
        deadline=None,
        derandomize=False,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    return lambda test: seed(SEED)(chosen(test))
