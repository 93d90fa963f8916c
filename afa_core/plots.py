"""What every plot shares: the experts' colours, and a matplotlib figure as an image tensor."""

from __future__ import annotations

import io

import torch
from torch import Tensor

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#666666")
"""One colour an expert, distinct under every kind of colour vision (Okabe and Ito)."""


def figure_image(figure) -> Tensor:
    """A matplotlib figure as an image [1, H, W, 3] in 0..1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.frombuffer(io.BytesIO(canvas.buffer_rgba()).getbuffer(), dtype=torch.uint8)
    width, height = canvas.get_width_height()
    return pixels.reshape(1, height, width, 4)[..., :3].float() / 255
