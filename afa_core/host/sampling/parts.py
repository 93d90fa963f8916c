"""What makes a patcher an ensemble, and its experts as they run now."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from comfy.model_patcher import ModelPatcher

from ...aggregator.sabw import Aggregator
from ...fusion.fusion import Fusion
from ...fusion.points import FusionPoint
from ...fusion.sabw_fusion import SABWFusion
from ...fusion.selection import Selection
from ...routing.record import RoutingRecord
from ..experts.experts import KEY, Expert


@dataclass(frozen=True)
class Ensemble:
    """What makes a patcher an ensemble; every clone of the patcher shares it.

    experts:     as they were when the ensemble was made, the first one included
    own_options: each expert's transformer options of its own
    weights:     how many patches each weight of the first expert had
    objects:     the object patches the first expert had
    injections:  what it had beside them, as the host's bypass mode of LoRAs puts there
    selection:   which experts a step may do without
    """

    experts: list[Expert]
    points: list[FusionPoint]
    fusion: Fusion
    companions: list[ModelPatcher]
    start_percent: float
    end_percent: float
    own_options: list[dict[str, Any]]
    weights: dict[str, int]
    objects: dict[str, Any]
    injections: dict[str, Any]
    selection: Selection
    record: RoutingRecord = field(default_factory=RoutingRecord)


def ensemble_of(main: ModelPatcher) -> Ensemble:
    """The Ensemble that this patcher runs."""
    return main.get_attachment(KEY)


def experts_of(main: ModelPatcher) -> list[Expert]:
    """The experts as they run now: the patchers that the host loaded for this run."""
    loaded = [main, *main.get_additional_models_with_key(KEY)]

    def as_loaded(patcher: ModelPatcher) -> ModelPatcher:
        return next(p for p in loaded if stands_for(p, patcher))

    return [
        replace(expert, patcher=as_loaded(expert.patcher), beside=expert.beside and as_loaded(expert.beside))
        for expert in ensemble_of(main).experts
    ]


def other_patchers(main: ModelPatcher) -> list[ModelPatcher]:
    """The experts' patchers beside the first one's, each once: experts may share one."""
    patchers = dict.fromkeys(expert.patcher for expert in experts_of(main))
    return [patcher for patcher in patchers if patcher is not main]


def fusion_on(main: ModelPatcher, fusion: Fusion) -> Fusion:
    """The fusion with the aggregator that the host loaded beside this patcher: each of several GPUs has its own."""
    if not isinstance(fusion, SABWFusion):
        return fusion
    loaded = (patcher.model for patcher in main.get_additional_models_with_key(KEY))
    aggregator = next(model for model in loaded if isinstance(model, Aggregator))
    return fusion if aggregator is fusion.aggregator else SABWFusion(aggregator, fusion.attend, fusion.top_k)


def stands_for(loaded: ModelPatcher, patcher: ModelPatcher) -> bool:
    """Whether it is a clone, or on newer hosts the same network on another GPU, or without paged weights."""
    base, other = (getattr(each, "clone_base_uuid", None) for each in (patcher, loaded))
    return loaded.is_clone(patcher) or (base is not None and base == other)
