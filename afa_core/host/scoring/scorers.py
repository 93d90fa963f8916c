"""Scorers of pictures: networks that were trained on human ratings, CLIP, and the distances of FID and IS."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...scoring import distribution
from ...scoring.affine_head import AffineHead
from ...scoring.pictures import fit_into_square
from . import files
from .batches import batches
from .clip_towers import SIZE, ClipTowers
from .files import MissingFile, ScorerError, read_weights
from .image_reward import ImageRewardScorer


class CosineScorer:
    """The cosine of picture and prompt in CLIP's space: CLIP-T, PickScore, HPSv2.

    CLIP-T:    the cosine, as the papers report it (torchmetrics multiplies by 100)
    PickScore: the cosine times the model's own logit scale
    HPSv2:     the cosine (tables multiply by 100), of the whole picture on black instead of a cut-out
    """

    def __init__(self, name: str, file: files.WeightsFile, activation: str, scaled: bool = False, padded: bool = False):
        self.towers = ClipTowers(file.find(name), activation)
        self.padded = padded
        scale = self.towers.logit_scale if scaled else 1.0
        if scale is None:
            raise ScorerError(f"{file.find(name).name} lacks its logit_scale, without which {name} means nothing: get {file.source}.")
        self.scale = scale

    def __call__(self, pictures: Tensor, prompts: list[str], references: Tensor | None = None) -> Tensor:
        self.towers.load()
        scores = []
        for start, batch in batches(pictures):
            seen = fit_into_square(batch, SIZE) if self.padded else batch
            texts = self.towers.texts(prompts[start : start + len(batch)])
            scores.append((self.towers.images(seen) * texts).sum(-1))
        return self.scale * torch.cat(scores).cpu()


class ReferenceScorer:
    """CLIP-I: the cosine between a picture and the real picture of its prompt."""

    def __init__(self, name: str):
        self.towers = ClipTowers(files.CLIP_L.find(name), "quick_gelu", with_text=False)

    def __call__(self, pictures: Tensor, prompts: list[str], references: Tensor | None = None) -> Tensor:
        self.towers.load()
        scores = []
        for start, batch in batches(pictures):
            real = cast(Tensor, references)[start : start + len(batch)]
            scores.append((self.towers.images(batch) * self.towers.images(real)).sum(-1))
        return torch.cat(scores).cpu()


class AestheticScorer:
    """AES: LAION's improved aesthetic predictor v2, from about 1 to 10."""

    def __init__(self, name: str):
        path = files.AESTHETIC.find(name)
        try:
            self.head = AffineHead.from_state(read_weights(path))
        except ValueError as error:
            raise ScorerError(f"{path.name} is not the aesthetic head that {name} means ({error}): get {files.AESTHETIC.source}.") from error
        clip = files.CLIP_L.find(name)
        self.towers = ClipTowers(clip, "quick_gelu", with_text=False)
        if self.towers.size != len(self.head.weight):
            raise ScorerError(
                f"{path.name} reads embeddings of {len(self.head.weight)} numbers, and {clip.name} gives "
                f"{self.towers.size}: {files.CLIP_L.source} is needed."
            )

    def __call__(self, pictures: Tensor, prompts: list[str], references: Tensor | None = None) -> Tensor:
        self.towers.load()
        return torch.cat([self.head(self.towers.images(batch)) for _, batch in batches(pictures)]).cpu()


class InceptionScorer:
    """FID against the references, or IS: one number for the whole batch."""

    def __init__(self, name: str):
        path = files.INCEPTION.find(name)
        read_weights(path)  # torch-fidelity would run whatever the file says: this refuses all but tensors
        self.name = name
        try:
            network = distribution.inception(path)
        except RuntimeError as error:
            raise ScorerError(
                f"{path.name} is not the Inception network of the original FID: get {files.INCEPTION.source}."
            ) from error
        offload = comfy.model_management.unet_offload_device()
        self.patcher = ModelPatcher(network, comfy.model_management.get_torch_device(), offload)

    def __call__(self, pictures: Tensor, prompts: list[str], references: Tensor | None = None) -> Tensor:
        if self.name == "IS":
            logits = self._features(pictures)[1]
            # A split of a single picture has a score of 1, whatever it shows.
            return torch.tensor([distribution.inception_score(logits, splits=10 if len(pictures) >= 100 else 1)[0]])
        found, real = (self._features(batch)[0] for batch in (pictures, cast(Tensor, references)))
        return torch.tensor([distribution.frechet_distance(found, real)])

    def _features(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        # Not of the host's layer classes, so it is on one device as a whole.
        comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)
        device = self.patcher.load_device
        return distribution.inception_features(self.patcher.model, (batch.to(device) for _, batch in batches(pictures)))


SCORERS = {
    "CLIP-T": lambda: CosineScorer("CLIP-T", files.CLIP_L, "quick_gelu"),
    "CLIP-I": lambda: ReferenceScorer("CLIP-I"),
    "AES": lambda: AestheticScorer("AES"),
    "PickScore": lambda: CosineScorer("PickScore", files.PICKSCORE, "gelu", scaled=True),
    "HPSv2.0": lambda: CosineScorer("HPSv2.0", files.HPS_2_0, "gelu", padded=True),
    "HPSv2.1": lambda: CosineScorer("HPSv2.1", files.HPS_2_1, "gelu", padded=True),
    "ImageReward": lambda: ImageRewardScorer("ImageReward"),
    "FID": lambda: InceptionScorer("FID"),
    "IS": lambda: InceptionScorer("IS"),
}
"""Every scorer by the name that tables use; making one reads its files. Raises ScorerError where they are missing.

It gives scores [B] of pictures [B, H, W, C] in 0..1, one prompt each; `references` are real pictures of the same prompts.
"""

FILES = {
    "CLIP-T": (files.CLIP_L,),
    "CLIP-I": (files.CLIP_L,),
    "AES": (files.AESTHETIC, files.CLIP_L),
    "PickScore": (files.PICKSCORE,),
    "HPSv2.0": (files.HPS_2_0,),
    "HPSv2.1": (files.HPS_2_1,),
    "ImageReward": (files.IMAGE_REWARD, files.BERT_VOCABULARY),
    "FID": (files.INCEPTION,),
    "IS": (files.INCEPTION,),
}
"""What each one reads."""

SIGNED = frozenset({"ImageReward"})
"""Scorers around 0, of which no geometric mean can be taken."""

WHOLE_SET = frozenset({"FID", "IS"})
"""Scorers that give one number for all pictures."""

NEEDS_REFERENCES = frozenset({"CLIP-I"})
"""Scorers that compare with a real picture."""


def check_scorers(names: Iterable[str], pictures: int, references: int | None) -> None:
    """Raises ScorerError where a file is missing, or so many pictures and references are not enough: before anything is loaded."""
    for name in names:
        for file in FILES[name]:
            file.find(name)
        if name in NEEDS_REFERENCES and references != pictures:
            raise ScorerError(
                f"{name} compares every picture with a real one: connect as many references as there are images "
                f"({pictures}), found {'none' if references is None else references}."
            )
        if name == "FID" and references is None:
            raise ScorerError("FID compares with a set of real pictures: connect references.")
        if name in WHOLE_SET and min(pictures, pictures if references is None else references) < 2:
            raise ScorerError(f"{name} describes sets of pictures, and one is not enough: connect more.")


def scores_of(pictures: Tensor, prompt: str) -> tuple[dict[str, list[float]], list[str]]:
    """Scores [B] of pictures [B, H, W, C] of one prompt, by every scorer of single pictures whose files the user has.

    Beside them what is wrong with the files of others, in a sentence each: it takes no pictures from the user.
    """
    scores, faults = {}, []
    for name in (name for name in SCORERS if name not in WHOLE_SET | NEEDS_REFERENCES):
        try:
            scores[name] = SCORERS[name]()(pictures, [prompt] * len(pictures)).tolist()
        except MissingFile:
            pass
        except ScorerError as error:
            faults.append(str(error))
    return scores, faults
