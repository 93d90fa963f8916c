"""How far one set of pictures is from another (FID), and how clear and varied it is (IS).

Both read features of the 2015 Inception network, whose weights are the user's file; torch-fidelity has the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

FEATURES = ("2048", "logits_unbiased")


def inception(weights: Path) -> torch.nn.Module:
    """The network of the original FID: takes uint8 pictures [B, 3, H, W], resizes them as TensorFlow 1 did.

    weights: a file that is known to hold nothing but tensors: torch-fidelity reads it without checking.
    Raises ImportError without torch-fidelity, RuntimeError where the file belongs to another network.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ImportError(
            "FID and IS need the package torch-fidelity: install it into ComfyUI's Python with "
            '"pip install torch-fidelity".'
        ) from error
    return FeatureExtractorInceptionV3("inception", list(FEATURES), feature_extractor_weights_path=str(weights))


def inception_features(network: torch.nn.Module, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """(features [n, 2048] for FID, logits [n, 1008] for IS) of batches of pictures [B, H, W, 3] in 0..1."""
    found = []
    with torch.no_grad():
        for pictures in batches:
            found.append(
                network((rearrange(pictures, "b h w c -> b c h w") * 255).round().clamp(0, 255).to(torch.uint8))
            )
    features, logits = zip(*found, strict=True)
    return torch.cat(features).cpu(), torch.cat(logits).cpu()


def frechet_distance(ours: Tensor, theirs: Tensor) -> float:
    """FID of two sets of features [n, D] and [m, D]: |mu1 - mu2|^2 + Tr(S1 + S2 - 2 (S1 S2)^1/2).

    With centred features A, B over sqrt(n - 1), Tr (S1 S2)^1/2 is the nuclear norm of A B'. That needs no
    root of a singular matrix, so it is exact for fewer pictures than dimensions, too (and still biased
    upwards there: compare sets of one size, and give ten thousand pictures where the number is to be quoted).
    """
    means, roots = [], []
    for features in (ours.double(), theirs.double()):
        mean = features.mean(0)
        centred = (features - mean) / (len(features) - 1) ** 0.5
        means.append(mean)
        roots.append(torch.linalg.qr(centred, mode="r").R)
    spread = sum(root.square().sum() for root in roots) - 2 * torch.linalg.matrix_norm(roots[0] @ roots[1].T, "nuc")
    return ((means[0] - means[1]).square().sum() + spread).item()


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """IS: (mean, standard deviation) over the splits of exp E KL(p(y|x) || p(y)), from shuffled logits [n, classes]."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    found = isc_features_to_metric(logits, splits=splits)
    return found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD]
