"""How good painted pictures are: of the right distribution, clear, like the real one, and of what the prompt says."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .features import features, likeness, logits
from .questions import Picture


def picture_scores(painted: Tensor, pictures: list[Picture], real: Tensor) -> dict[str, Any]:
    """Scores of painted pictures [n, H, W, 3] whose real ones have the features `real` [n, 1280].

    FID*:    Frechet distance of the features to those of the real pictures
    IS*:     exp of the mean KL divergence of each picture's ImageNet classes from their mean
    CLIP-I*: by picture, the cosine of its features with those of the real picture of its prompt
    CLIP-T*: by picture, the reciprocal rank of its prompt's real picture among all of that hand, nearest first
    """
    from afa_core.scoring.distribution import frechet_distance, inception_score

    found = features(painted)
    return {
        "FID*": frechet_distance(found, real),
        "IS*": inception_score(logits(found), splits=1)[0],
        "CLIP-I*": likeness(found, real).tolist(),
        "CLIP-T*": reciprocal_ranks(found, real, [picture.hand for picture in pictures]).tolist(),
    }


def reciprocal_ranks(found: Tensor, real: Tensor, hands: list[str]) -> Tensor:
    """1 / (1 + number of real pictures of the same hand that are nearer than the right one), [n]."""
    alike = F.normalize(found, dim=1) @ F.normalize(real, dim=1).T
    same = torch.tensor([[a == b for b in hands] for a in hands])
    nearer = (alike > alike.diagonal()[:, None]) & same
    return 1 / (1 + nearer.sum(1))
