"""Distilling with labels first, beside training a LoRA on the student alone: its step, and what is in memory meanwhile."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from .gpu_habits import MISSED
from .measure import interleaved, ratios, spread
from .models import SD15, Family, random_unet

LIMIT = 1.1
EXPERTS = 2


def bench_distilling(size: int = 32, rounds: int = 3, family: Family = SD15) -> list[str]:
    from afa_core.fusion.averages import StaticFusion
    from afa_core.host.experts.experts import Expert
    from afa_core.host.sampling.ensemble import make_ensemble
    from afa_core.host.training import cache
    from afa_core.host.training.distilling import Distillation, LoraSettings
    from afa_core.host.training.frozen_experts import outside_inference
    from afa_core.training.labels import LabelledDataset

    experts = [Expert(random_unet(seed, family), f"model_{seed + 1}") for seed in range(EXPERTS)]
    ensemble = make_ensemble(StaticFusion("noise average"), experts)
    distillation, data = Distillation(ensemble, random_unet(EXPERTS, family)), RandomStore(size).data()
    own = distillation.student.model_size()
    with tempfile.TemporaryDirectory() as folder, outside_inference(), patch.object(cache, "cache_folder", lambda: Path(folder)):
        labels = distillation.label(data, False, lambda *_: None)
        labelled = LabelledDataset(replace(data, experts=1), labels)
        task = distillation.task(data, LoraSettings())
        memory = loaded_bytes() / own
        # A LoRA's own training differs by what it learns alone.
        ways = {name: step(task, labelled, data_only=name == "alone") for name in ("distilled", "alone")}
        ways["distilled"]()
        seconds = interleaved(ways, rounds)
    ratio = ratios(seconds["distilled"], seconds["alone"])
    missed = MISSED if sorted(ratio)[len(ratio) // 2] > LIMIT or memory > LIMIT else ""
    return [
        f"A training step with labels first / one of the same LoRA on the data alone: {spread(ratio)}. Models in memory while the "
        f"student trains / the student: {memory:.3f}. Limit of both: {LIMIT}{missed}."
    ]


def loaded_bytes() -> int:
    """Of all models that the host holds on the device."""
    import comfy.model_management

    return sum(loaded.model_loaded_memory() for loaded in comfy.model_management.current_loaded_models)


def step(task, data, data_only: bool) -> Callable[[], None]:
    """A forward and backward pass."""
    from afa_core.host.training.frozen_experts import outside_inference
    from afa_core.training.draw import training_draw

    batch = data.train_batch(0)

    def run() -> None:
        task.lessons = replace(task.lessons, data_only=data_only)
        with outside_inference():
            task.loss(batch, training_draw(batch.latents.shape, 0, 0))["distance"].backward()

    return run


class RandomStore:
    """Latents and texts of SD1.5's shapes."""

    def __init__(self, size: int):
        self.size = size

    def latent(self, item: int, variant: int) -> torch.Tensor:
        return torch.randn(4, self.size, self.size, generator=torch.Generator().manual_seed(item))

    def text(self, expert: int, item: int, empty: bool) -> dict[str, torch.Tensor]:
        return {"c_crossattn": torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(item))}

    def data(self):
        from afa_core.training.data.dataset import BatchPlan, DatasetItem, LatentDataset

        size = (self.size, self.size)
        items = [DatasetItem(f"{i}", f"{i}", "", "all", 1, size, 77, held_out=not i) for i in range(2)]
        return LatentDataset(items, self, EXPERTS, BatchPlan(batch_size=1, variants=1), source="random")
