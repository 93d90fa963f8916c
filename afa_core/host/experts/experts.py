"""Experts as the host holds them: which fit together, and what each needs of its own."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ...aggregator.config import AggregatorConfig
from ...fusion.points import FusionPoint
from ...merging.blocks import Blocks
from ..architectures.architecture import Architecture
from ..architectures.families import architecture_of, supported
from .beside import Patch, PatchesBeside, changes_weight
from .compiled_blocks import compiled_parts
from .step_caches import step_cache

KEY = "afa"
"""Under which a patcher carries what makes it an ensemble."""
CAST = "manual_cast_dtype"
"""The object patch by which a node chooses in which dtype a model computes."""


class ExpertError(ValueError):
    """Models that cannot be ensembled, in one sentence that names both."""


@dataclass(frozen=True)
class Expert:
    """A model on a socket, with the name that messages use.

    beside: its weight patches that are not in the network, where it shares that with other experts
    """

    patcher: ModelPatcher
    label: str
    beside: ModelPatcher | None = None

    @property
    def own_patches(self) -> PatchesBeside | None:
        return self.beside and self.beside.model

    @property
    def architecture(self) -> Architecture:
        """The family of its network. Raises ExpertError where no family can run it."""
        family = architecture_of(self.patcher.model)
        if family is None:
            raise ExpertError(
                f"{self.label} is a {type(self.patcher.model.diffusion_model).__name__}, and this pack ensembles {supported()}."
            )
        return family

    @property
    def architecture_name(self) -> str:
        return self.architecture.name(self.patcher.model)

    @property
    def points(self) -> list[FusionPoint]:
        return self.architecture.points(self.patcher.model)

    @property
    def aggregator_fields(self) -> dict[str, Any]:
        """What this kind of model decides of an AggregatorConfig."""
        architecture, model = self.architecture, self.patcher.model
        return {
            "architecture": self.architecture_name,
            "channels": tuple(point.channels for point in self.points),
            "text_width": architecture.text_width(model),
            "time_width": architecture.time_width(model),
            "fused": architecture.fused(self.points),
            "tokens": architecture.tokens,
        }

    @property
    def merge_blocks(self) -> Blocks:
        return self.architecture.merge_blocks(self.patcher.model)

    @property
    def prompt_width(self) -> int:
        return self.architecture.prompt_width(self.patcher.model)

    @property
    def adapts_text(self) -> bool:
        """Whether its network has weights that make its text of a prompt."""
        return self.architecture.adapts_text(self.patcher.model)

    @property
    def prediction(self) -> str:
        """What the network predicts, by the host's names: eps, v_prediction, ..."""
        sampling = type(self.patcher.get_model_object("model_sampling"))
        return next(c.__name__.lower() for c in sampling.__mro__ if "calculate_denoised" in vars(c))


def check_experts(experts: list[Expert]) -> None:
    """Raises ExpertError unless these models can be fused; reads shapes only, moves no weight."""
    for expert in experts:
        _check_supported(expert)
    first = experts[0]
    for other in experts[1:]:
        _check_topology(first, other)
        if latent_space(other) != latent_space(first):
            raise ExpertError(
                f"{other.label} and {first.label} paint in different latent spaces ({latent_space(other)[0]} and "
                f"{latent_space(first)[0]}): an ensemble needs checkpoints that share a VAE."
            )
        if not _same_noising(other, first):
            raise ExpertError(
                f"{other.label} ({other.prediction}) and {first.label} ({first.prediction}) add noise in different "
                "ways: an ensemble can mix eps and v-prediction, but not these."
            )


def check_config(name: str, config: AggregatorConfig, experts: list[Expert]) -> None:
    """Raises ExpertError unless an aggregator of this configuration fits these experts."""
    if config.num_experts != len(experts):
        raise ExpertError(
            f"{name} was trained for {config.num_experts} experts, and {len(experts)} models are connected: "
            "connect those that it was trained for, in their order."
        )
    first = experts[0]
    found = first.aggregator_fields
    checks = {
        "fusion points of the channels": (config.channels, found["channels"]),
        "a text width of": (config.text_width, found["text_width"]),
        "a time embedding of": (config.time_width, found["time_width"]),
        "features that are tokens:": (config.tokens, found["tokens"]),
    }
    for what, (expected, found) in checks.items():
        if expected != found:
            made_for = f" ({config.architecture})" if config.architecture else ""
            raise ExpertError(
                f"{name}{made_for} was made for {what} {_short(expected)}, and {first.label} ({first.architecture_name}) "
                f"has {_short(found)}: load an aggregator that was trained for this architecture."
            )


def compute_dtype(patcher: ModelPatcher) -> torch.dtype:
    """The dtype that a model computes in, as the host's `_apply_model` chooses it once the model is patched."""
    chosen = patcher.get_model_object(CAST)
    return patcher.model.get_dtype() if chosen is None else chosen


def later_weights(main: ModelPatcher, known: dict[str, int]) -> dict[str, list[Patch]]:
    """The weight patches that were put on the ensemble's patcher since its weights had `known` ones."""
    weights = {key: patches[known.get(key, 0) :] for key, patches in main.patches.items()}
    return {key: patches for key, patches in weights.items() if patches}


def later_objects(main: ModelPatcher, known: dict[str, Any]) -> dict[str, Any]:
    """The object patches that were put on a patcher since it had `known` ones."""
    return {name: obj for name, obj in main.object_patches.items() if known.get(name) is not obj}


def check_adds(weights: dict[str, list[Patch]]) -> None:
    """Raises ExpertError where a patch of a network would have to act on what experts add beside it, too."""
    for key, patches in weights.items():
        if any(changes_weight(patch) for patch in patches):
            raise ExpertError(
                f"A node behind the ensemble merges or rescales {key}, and experts of this ensemble share that weight: put "
                "that node on each checkpoint, before AFA Ensemble Model."
            )


def later_patches(
    expert: ModelPatcher, main: ModelPatcher, known: dict[str, int], objects: dict[str, Any]
) -> ModelPatcher:
    """The expert with what was put on the ensemble's patcher since it was made.

    known: how many patches each weight of `main` had then; objects: its object patches then.
    Raises ExpertError where a patch holds weights of the first expert, such as a compiled block.
    """
    weights = later_weights(main, known)
    replaced = later_objects(main, objects)
    if not weights and not replaced:
        return expert
    parts = [name for name in replaced if name.startswith("diffusion_model.")]
    if parts:
        raise ExpertError(
            f"A node behind the ensemble replaced {parts[0]} by a part of the first expert, which the others cannot use: "
            "put that node on each checkpoint, before AFA Ensemble Model."
        )
    patched = expert.clone()
    for key, patches in weights.items():
        patched.patches[key] = patched.patches.get(key, []) + patches
    patched.object_patches.update(replaced)
    if CAST in replaced:
        patched.set_model_compute_dtype(replaced[CAST])  # the host keeps more than the object patch
    # The same expert under the same patches is the same to the host's manager: it stays loaded between runs.
    patched.patches_uuid = uuid.uuid5(expert.patches_uuid, str(main.patches_uuid))
    return patched


def check_runs_in_blocks(patcher: ModelPatcher, label: str, objects: dict[str, Any]) -> None:
    """Raises ExpertError where the network cannot be run block by block: it was compiled or replaced, or is cached.

    objects: object patches that are known to be sound.
    """
    if cache := step_cache(patcher):
        raise ExpertError(
            f"{label} has {cache}, which uses again what one network computed in an earlier step, and an ensemble has "
            "several: remove that node."
        )
    compiled = compiled_parts(patcher)
    if "diffusion_model" in (*compiled, *later_objects(patcher, objects)):
        raise ExpertError(
            f"{label} is compiled as a whole, and an ensemble runs its experts block by block: remove the "
            "TorchCompileModel node."
        )
    family = architecture_of(patcher.model)
    if compiled and family is not None and not family.runs_compiled_blocks:
        raise ExpertError(
            f"{label} is a {family.name(patcher.model)} with compiled blocks ({compiled[0]}), and an ensemble pauses inside "
            "those: remove the node that compiles them."
        )


def _check_supported(expert: Expert) -> None:
    _ = expert.architecture
    check_runs_in_blocks(expert.patcher, expert.label, {})
    if expert.patcher.get_attachment(KEY) is not None:
        raise ExpertError(
            f"{expert.label} is an ensemble itself: connect its checkpoints in its place, one a socket."
        )


def _check_topology(first: Expert, other: Expert) -> None:
    differs = f"{other.label} is a {other.architecture_name}{{}} and {first.label} a {first.architecture_name}{{}}"
    needs = "an ensemble needs checkpoints of one architecture."
    if other.architecture is not first.architecture:
        raise ExpertError(f"{differs.format('', '')}: {needs}")
    configs = [expert.patcher.model.model_config.unet_config for expert in (other, first)]
    for key in first.architecture.topology:
        theirs, ours = (config.get(key) for config in configs)
        if theirs != ours:
            raise ExpertError(f"{differs.format(f' ({key} {theirs})', f' ({key} {ours})')}: {needs}")


def latent_space(expert: Expert) -> tuple[str, float]:
    """The latent format's name, and the factor by which it scales a VAE's latents."""
    latent = expert.patcher.model.latent_format
    return type(latent).__name__, getattr(latent, "scale_factor", 1.0)


def _same_noising(one: Expert, other: Expert) -> bool:
    """Whether both scale a noisy latent alike: then eps and v-predictions convert into one another."""
    latent, sigma = torch.full((1, 1, 1, 1), 2.0), torch.tensor([3.0])
    a, b = (expert.patcher.get_model_object("model_sampling") for expert in (one, other))
    return all(
        torch.allclose(f(a).float().cpu(), f(b).float().cpu())
        for f in (
            lambda sampling: sampling.calculate_input(sigma, latent.clone()),
            lambda sampling: sampling.noise_scaling(sigma, latent.clone(), latent.clone()),
        )
    )


def _short(value: Any) -> str:
    return f"{list(value)}" if isinstance(value, tuple) else f"{value}"
