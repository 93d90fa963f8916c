"""Whether the checkpoints on the sockets are those that an aggregator was trained for."""

from __future__ import annotations

import logging

from ...aggregator.file import AggregatorFile
from .checkpoints import model_digest
from .experts import Expert, ExpertError


def check_identity(aggregator: AggregatorFile, experts: list[Expert]) -> None:
    """Raises ExpertError where the aggregator's checkpoints are connected, but in another order.

    A checkpoint that it does not know is told in the log only: a near relative of the right one is worth a try.
    Costs nothing where the file names no experts; else a few weights of every tensor are read.
    """
    expected = [expert.get("sha256", "") for expert in aggregator.experts]
    if not expected or not all(expected):
        return
    names = [expert.get("file", "") or "its checkpoint" for expert in aggregator.experts]
    found = [model_digest(expert.patcher) for expert in experts]
    sockets = [expert.label.split(" ")[0] for expert in experts]
    wrong = [i for i in range(len(experts)) if found[i] != expected[i]]
    if any(found[i] == expected[j] for i in wrong for j in wrong):
        order = ", ".join(f"{name} to {socket}" for name, socket in zip(names, sockets, strict=True))
        connected = ", ".join(experts[i].label for i in wrong)
        raise ExpertError(
            f"{aggregator.name} was trained with the same checkpoints in another order than {connected}: connect {order}."
        )
    for i in wrong:
        logging.warning(
            f"AFA: {experts[i].label} is not the checkpoint that {aggregator.name} was trained with there "
            f"({names[i]}): its shares were learnt for another expert."
        )
