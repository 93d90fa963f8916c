"""Whether the models on the sockets are those that an aggregator was trained for: their checkpoints, and their LoRAs."""

from __future__ import annotations

from typing import Any

from ...aggregator.file import AggregatorFile
from .checkpoints import model_identity
from .experts import Expert, ExpertError
from .fingerprint import patches_digest


def described(expert: Expert, file: str, loras: list[dict[str, Any]]) -> dict[str, Any]:
    """An expert's entry in an aggregator's file. loras: as the graph names them, in the order of their application."""
    identity, patches = model_identity(expert.patcher), patches_digest(expert.patcher)
    return {
        "file": file,
        "sha256": identity.digests[0],
        "sketch": str(identity.sketch),
        "prediction": expert.prediction,
        "patches": patches,
        "loras": loras if patches else [],
    }


def named(expert: dict[str, Any]) -> str:
    """An entry's checkpoint and LoRAs, for a sentence."""
    loras = [f"{lora['file']} at {lora['strength']:g}" for lora in expert.get("loras", [])]
    patches = " and ".join(loras) or ("other patches" if expert.get("patches") else "")
    return (expert.get("file", "") or "its checkpoint") + (f" with {patches}" if patches else "")


def check_identity(aggregator: AggregatorFile, experts: list[Expert]) -> list[str]:
    """Raises ExpertError where the aggregator's experts are connected, but in another order.

    Gives a sentence for every expert that the file does not name: a fine-tune of the right one may work.
    Costs nothing where the file names no experts; else a few weights of every tensor are read.
    """
    expected = aggregator.experts
    if not expected or not all(entry.get("sha256") for entry in expected):
        return []
    identities = [model_identity(expert.patcher) for expert in experts]
    patches = [patches_digest(expert.patcher) for expert in experts]

    def same_checkpoint(i: int, j: int) -> bool:
        return identities[i].is_of(expected[j])

    def same_patches(i: int, j: int) -> bool:
        return expected[j].get("patches", patches[i]) == patches[i]  # older files do not say

    places = range(len(experts))
    others = [i for i in places if not same_checkpoint(i, i)]
    patched = [i for i in places if i not in others and not same_patches(i, i)]
    if any(same_checkpoint(i, j) for i in others for j in others) or any(
        same_checkpoint(i, j) and same_patches(i, j) for i in patched for j in patched
    ):
        sockets = [expert.label.split(" ")[0] for expert in experts]
        order = ", ".join(f"{named(entry)} to {socket}" for entry, socket in zip(expected, sockets, strict=True))
        connected = ", ".join(experts[i].label for i in sorted(others + patched))
        raise ExpertError(
            f"{aggregator.name} was trained with the same checkpoints in another order than {connected}: connect {order}."
        )
    found = {i: "is not the checkpoint that" for i in others} | {i: "has other LoRAs than" for i in patched}
    return [
        f"{experts[i].label} {what} {aggregator.name} was trained with there ({named(expected[i])}): its shares were learnt "
        "for another expert."
        for i, what in found.items()
    ]
