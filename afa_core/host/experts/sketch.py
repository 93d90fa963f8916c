"""A few weights of a network, by which it is recognised in whatever precision it was loaded."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

PRECISIONS = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
"""What a host loads weights in, the finest first; float32 counts as float16, which is fine enough to distinguish networks."""


@dataclass(frozen=True)
class Sketch:
    """values: one weight of each tensor, [K] in float32, in the order of the tensors' names
    precision: a key of PRECISIONS; the values were rounded to it once, from the weights in the checkpoint
    """

    values: Tensor
    precision: str

    @classmethod
    def of(cls, weights: Iterable[Tensor]) -> Sketch:
        """weights: one of each tensor, as loaded. They are taken in the coarsest precision that occurs."""
        weights = list(weights)
        names = list(PRECISIONS)
        found = {str(weight.dtype).removeprefix("torch.") for weight in weights}
        precision = max(found & set(names), key=names.index, default=names[0])
        rounded = [weight.to(PRECISIONS[precision]).float() for weight in weights]
        return cls(torch.stack(rounded) if rounded else torch.zeros(0), precision)

    @classmethod
    def parsed(cls, text: str) -> Sketch | None:
        """The inverse of str(); None for a text of unknown origin that is none."""
        precision, _, data = text.partition(" ")
        try:
            content = bytearray(base64.b64decode(data, validate=True))
            values = torch.frombuffer(content, dtype=PRECISIONS[precision]).float()
        except (KeyError, ValueError, binascii.Error):
            return None
        return cls(values, precision)

    def __str__(self) -> str:
        content = self.values.to(PRECISIONS[self.precision]).view(torch.uint8).numpy().tobytes()
        return f"{self.precision} {base64.b64encode(content).decode()}"

    def agrees(self, other: Sketch) -> bool:
        """Whether both can have been rounded from the same weights.

        In one precision those are equal. In two, each is at most half a unit in its last place away from the weight;
        only between the two kinds of float8 can a light fine-tune pass for its base.
        """
        if self.values.shape != other.values.shape:
            return False
        if self.precision == other.precision:
            return torch.equal(self.values, other.values)
        return bool(((self.values - other.values).abs() <= self.errors + other.errors).all())

    @property
    def errors(self) -> Tensor:
        """[K]; how far each weight may be from what it was rounded from."""
        info = torch.finfo(PRECISIONS[self.precision])
        exponents = torch.frexp(self.values).exponent  # of a fraction in 0.5..1
        half_units = torch.ldexp(torch.full_like(self.values, info.eps / 4), exponents)
        return torch.where(self.values == 0, 0, half_units).clamp_min(info.smallest_normal * info.eps / 2)
