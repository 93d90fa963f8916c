"""Training an aggregator: the task that the pack exists for (AFA section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...aggregator.config import AggregatorConfig
from ...aggregator.file import AggregatorFile, save_aggregator
from ...aggregator.pruning import identity_biases, points_fused, points_kept, pruned
from ...aggregator.sabw import Aggregator
from ...fusion.averages import StaticFusion
from ...fusion.fusion import Fusion
from ...fusion.not_finite import checking_every_feature
from ...fusion.points import FusionPoint
from ...fusion.sabw_fusion import SABWFusion, attend
from ..data.dataset import Batch
from ..draw import Draw, generator, held_out_draw
from ..fusions import ExpertDropout, OnlyPoints, checkpointed
from ..objective import Balance, FrozenExperts, baseline_losses, sample_loss
from ..task import BEST_SINGLE

NOISE_LEVELS = 5


@dataclass(frozen=True)
class AggregatorSettings:
    """The published loss, and what can be added to it.

    expert_dropout: probability of losing an expert at a fusion point
    drop_points:    leaves a fusion point alone from where its identity bias leaves experts alone; its file lacks it anyway
    """

    min_snr_gamma: float = 0.0
    load_balance: float = 0.0
    expert_dropout: float = 0.0
    drop_points: bool = False


class AggregatorTask:
    """Frozen experts, and the aggregator that fuses them.

    sources: AggregatorFile.experts, which the aggregator's file will carry
    """

    name = "aggregator"
    chosen_by = "held_out"
    curves_title = "mean share"
    goal: str | None = None

    def __init__(
        self,
        experts: FrozenExperts,
        config: AggregatorConfig,
        sources: list[dict[str, Any]],
        settings: AggregatorSettings,
        seed: int,
    ):
        self.experts, self.config, self.sources, self.settings = experts, config, sources, settings
        self.module = new_aggregator(config, seed, experts.device)
        self.device, self.compute_dtype = experts.device, experts.compute_dtype

    def identity(self) -> dict[str, Any]:
        return identity_of(self.config, self.settings, self.sources)

    @property
    def watched(self) -> list[Tensor]:
        """The identity biases, where points are dropped by them."""
        if not self.settings.drop_points:
            return []
        return [bias.detach() for bias in identity_biases(self.config, dict(self.module.named_parameters()))]

    def fusion(self, points: tuple[int, ...] | None = None) -> Fusion:
        """points: that are fused; by default those that the weights do not leave alone, which are read from the device"""
        fusion = SABWFusion(self.module, checkpointed if self.experts.checkpointing else attend)
        return OnlyPoints(fusion, self._kept() if points is None else points)

    @torch.no_grad()
    def _kept(self) -> tuple[int, ...]:
        if not self.settings.drop_points:
            return self.config.fused_points
        return points_kept(self.config, dict(self.module.named_parameters()))

    def loss(self, batch: Batch, draw: Draw, watched: Sequence[float] = ()) -> dict[str, Tensor]:
        """A point that is left alone gets no gradient."""
        balance = Balance()
        fusion = self.fusion(points_fused(self.config, watched))
        if self.settings.expert_dropout:
            fusion = ExpertDropout(fusion, self.settings.expert_dropout, generator(*draw.seeds, 1))
        observe = balance.observe if self.settings.load_balance else None
        losses = sample_loss(self.experts, fusion, batch, draw, observe, self.settings.min_snr_gamma)
        terms = {"error": losses.mean()}
        if self.settings.load_balance:
            terms["balance"] = self.settings.load_balance * balance.imbalance()
        return terms

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """`shares` [points, N]: the experts' mean shares at every fusion point."""
        balance = Balance()
        losses = sample_loss(self.experts, self.fusion(), batch, held_out_draw(batch), balance.observe)
        return {"held_out": losses, "shares": torch.stack(list(balance.shares.values()))}

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """Every expert by itself, the noise average and the block average."""
        draw = held_out_draw(batch)
        rows = baseline_losses(self.experts, batch, draw)
        if not all(losses.isfinite().all() for losses in rows.values()):
            apart = StaticFusion("noise average").bind(self.experts.points, len(self.experts.labels))
            self._check_features(apart, batch, draw, "on a held-out picture")
        return rows

    def find_not_finite(self, batch: Batch, draw: Draw, when: str) -> None:
        self._check_features(self.fusion(), batch, draw, when)

    @torch.no_grad()
    def _check_features(self, fusion: Fusion, batch: Batch, draw: Draw, when: str) -> None:
        sample_loss(self.experts, checking_every_feature(fusion, self.experts.labels, when), batch, draw)

    @torch.no_grad()
    def measure(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """Mean share of every expert at every fusion point and noise level.

        {"points": names, "timesteps": middles of the levels in thousandths of the noise range, "shares":
        [levels][points][N]}; level 0 is the least noise.
        """
        fusion = self.fusion()
        points = [self.experts.points[i] for i in self._kept()]
        sums = torch.zeros(NOISE_LEVELS, len(points), self.config.num_experts)
        counts = torch.zeros(NOISE_LEVELS)
        for batch in batches:
            draw = held_out_draw(batch, look=1)
            shares: list[Tensor] = []

            def observe(point: FusionPoint, share: Tensor, shares: list[Tensor] = shares) -> None:
                shares.append(share.mean((2, 3)).float())

            sample_loss(self.experts, fusion, batch, draw, observe)
            levels = (draw.levels * NOISE_LEVELS).long()
            sums.index_add_(0, levels, torch.stack(shares, dim=1).cpu())
            counts.index_add_(0, levels, torch.ones(len(levels)))
        return {
            "points": [point.name for point in points],
            "timesteps": [(level + 0.5) * 1000 / NOISE_LEVELS for level in range(NOISE_LEVELS)],
            "shares": (sums / counts.clamp_min(1)[:, None, None]).tolist(),
        }

    def export(
        self, path: Path, weights: Mapping[str, Tensor], history: dict[str, Any], measured: dict[str, Any]
    ) -> AggregatorFile:
        """Weights are stored in float16: half the size, and the held-out loss is the same to five digits."""
        config, kept = pruned(self.config, weights)
        half = {key: tensor.detach().cpu().half() for key, tensor in kept.items()}
        training = {**asdict(self.settings), **history, "objective": "mean squared error of the prediction"}
        file = AggregatorFile(path.name, config, half, self.sources, training, measured)
        save_aggregator(file, path)
        return file

    def rivals(self, baselines: dict[str, float]) -> dict[str, float]:
        single = min(baselines[label] for label in self.experts.labels)
        return {BEST_SINGLE: single, **{name: baselines[name] for name in ("noise average", "block average")}}

    def curves(self, evaluation: dict[str, Any], baselines: dict[str, float]) -> dict[str, float]:
        shares = evaluation["shares"]
        return {label: sum(point[i] for point in shares) / len(shares) for i, label in enumerate(self.experts.labels)}


def new_aggregator(config: AggregatorConfig, seed: int, device: torch.device) -> Aggregator:
    """A trainable aggregator in float32, alike for a seed on every machine."""
    return Aggregator(config).initialise(generator(seed)).to(device)


def identity_of(
    config: AggregatorConfig, settings: AggregatorSettings, sources: list[dict[str, Any]]
) -> dict[str, Any]:
    """`AggregatorTask.identity`, which is known before there is a task."""
    loss = asdict(settings)
    if not settings.drop_points:  # a training of an earlier version has no such setting, and goes on
        del loss["drop_points"]
    return {**config.to_json(), **loss, **of_experts(sources)}


def of_experts(sources: list[dict[str, Any]]) -> dict[str, Any]:
    """What a training depends on of its experts, by name; without LoRAs the same as before these counted."""
    kept = ("file", "sha256", "prediction")
    patched = {f"LoRAs of expert {i}": source for i, source in enumerate(sources, start=1) if source.get("patches")}
    return {
        "experts": [{key: source[key] for key in kept if key in source} for source in sources],
        **{name: [s["patches"][:8], *(lora["file"] for lora in s["loras"])] for name, s in patched.items()},
    }
