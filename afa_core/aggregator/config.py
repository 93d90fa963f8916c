"""What an aggregator is made for, and the shape of every tensor that follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

ABLATIONS = ("time", "text", "space", "blocks")
"""Parts of the paper's aggregator that an ablated one goes without (AFA table 4)."""

LIMITS = {
    "num_experts": (2, 8),
    "hidden_size": (32, 4096),
    "num_layers": (1, 32),
    "num_heads": (1, 256),
    "text_width": (1, 16384),
    "time_width": (1, 65536),
    "routing_stride": (1, 64),
}

LATER = {"ablations", "routing_stride", "fused", "tokens", "identity_bias"}
"""Fields that a file may lack."""


class ConfigError(ValueError):
    """A configuration that no aggregator can have; says which field, what was expected and found."""


@dataclass(frozen=True)
class AggregatorConfig:
    """channels: C at every fusion point; text_width: D of the text states; time_width: T of the time embedding.

    routing_stride: where features are finer than this stride of the latent, the aggregator's blocks work on averages,
    and what they add is interpolated; 1 works at every position, as published
    fused: indices of the fusion points that have an aggregator; None: all of them
    tokens: whether the features are tokens of a transformer, whose size grows from block to block: they are normed over
    their channels, and the text, which is as wide as they are, is brought to hidden_size once for all points
    identity_bias: whether each expert has attention maps of its own, softmax(logits + b * identity), with one learned
    scalar b a fusion point; the prediction, which is one, has none
    """

    architecture: str
    channels: tuple[int, ...]
    num_experts: int
    text_width: int
    time_width: int
    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 8
    ablations: tuple[str, ...] = ()
    routing_stride: int = 1
    fused: tuple[int, ...] | None = None
    tokens: bool = False
    identity_bias: bool = False

    def __post_init__(self) -> None:
        if (
            not isinstance(self.architecture, str)
            or len(self.architecture) > 200
            or not self.architecture.isprintable()
        ):
            raise ConfigError(f"architecture should be a short text on one line, found {self.architecture!r:.40}")
        for name, (low, high) in LIMITS.items():
            _whole(name, getattr(self, name), low, high)
        if not isinstance(self.channels, tuple) or not 2 <= len(self.channels) <= 256:
            raise ConfigError(f"channels should list 2 to 256 fusion points, found {self.channels!r:.40}")
        for channels in self.channels:
            _whole("channels", channels, 1, 65536)
        if self.hidden_size % 32 or self.hidden_size % self.num_heads:
            raise ConfigError(
                f"hidden_size should be a multiple of 32 and of num_heads ({self.num_heads}), found {self.hidden_size}"
            )
        if self.hidden_size == 32:
            raise ConfigError("hidden_size should be 64 or more: at 32 the group norm erases the time embedding")
        if not isinstance(self.ablations, tuple) or not set(map(str, self.ablations)) <= set(ABLATIONS):
            raise ConfigError(f"ablations should be among {', '.join(ABLATIONS)}, found {self.ablations!r:.80}")

        for name in ("tokens", "identity_bias"):
            if type(value := getattr(self, name)) is not bool:
                raise ConfigError(f"{name} should be true or false, found {value!r:.40}")

        last = len(self.channels) - 1
        if self.fused is not None:
            for index in _tuple("fused", self.fused):
                _whole("fused", index, 0, last)
            if sorted(set(self.fused)) != list(self.fused) or last not in self.fused:
                raise ConfigError(
                    f"fused should list fusion points in order, and the prediction ({last}) last, found {list(self.fused)!r:.80}"
                )

    @property
    def fused_points(self) -> tuple[int, ...]:
        """Indices of the fusion points that have an aggregator."""
        points = tuple(range(len(self.channels))) if self.fused is None else self.fused
        return points[-1:] if "blocks" in self.ablations else points

    @property
    def point_text_width(self) -> int:
        """Width of the text that the fusion points' own projections read."""
        return self.hidden_size if self.tokens else self.text_width

    @property
    def biased_points(self) -> tuple[int, ...]:
        """Indices of the fusion points that have an identity bias."""
        return self.fused_points[:-1] if self.identity_bias else ()

    def to_json(self) -> dict[str, Any]:
        """Without the newest fields where they say nothing, so that older versions can read the file."""
        newest = ("fused", "tokens", "identity_bias")
        return {name: value for name, value in asdict(self).items() if name not in newest or value}

    @classmethod
    def from_json(cls, fields: Any) -> AggregatorConfig:
        """Raises ConfigError for anything but the object that `to_json` writes."""
        if not isinstance(fields, dict):
            raise ConfigError(f"config should be an object, found {type(fields).__name__}")
        known = set(cls.__dataclass_fields__)
        missing = known - set(fields) - LATER
        if missing or not set(fields) <= known:
            odd = ", ".join(sorted(missing or set(fields) - known))
            raise ConfigError(
                f"config should have the fields of an aggregator, and {'lacks' if missing else 'has'} {odd!r:.80}"
            )
        lists = {
            name: tuple(fields[name])
            for name in ("channels", "ablations", "fused")
            if isinstance(fields.get(name), list)
        }
        return cls(**{**fields, **lists})

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(key, shape) of every tensor of the aggregator's state dict."""
        if self.tokens:
            yield "text_in.weight", (self.hidden_size, self.text_width)
        for i in self.fused_points:
            for key, shape in sabw_shapes(self, self.channels[i]):
                yield f"aggregators.{i}.{key}", shape
        for i in self.biased_points:
            yield f"aggregators.{i}.identity_bias", ()


def sabw_shapes(config: AggregatorConfig, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(key, shape) of one fusion point's aggregator, keys as in the authors' release."""
    h = config.hidden_size

    def weight_and_bias(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]

    yield from weight_and_bias("conv_in", h, channels * config.num_experts, 1, 1)
    yield from weight_and_bias("res_block.norm1", h)
    yield from weight_and_bias("res_block.conv1", h, h, 3, 3)
    yield from weight_and_bias("res_block.time_emb_proj", h, config.time_width)
    yield from weight_and_bias("res_block.norm2", h)
    yield from weight_and_bias("res_block.conv2", h, h, 3, 3)
    yield from weight_and_bias("transformer.norm", h)
    yield from weight_and_bias("transformer.proj_in", h, h, 1, 1)
    for layer in range(config.num_layers):
        block = f"transformer.transformer_blocks.{layer}."
        for norm in ("norm1", "norm2", "norm3"):
            yield from weight_and_bias(block + norm, h)
        for attention, width in (("attn1", h), ("attn2", config.point_text_width)):
            yield f"{block}{attention}.to_q.weight", (h, h)
            yield f"{block}{attention}.to_k.weight", (h, width)
            yield f"{block}{attention}.to_v.weight", (h, width)
            yield from weight_and_bias(f"{block}{attention}.to_out.0", h, h)
        yield from weight_and_bias(block + "ff.net.0.proj", 8 * h, h)
        yield from weight_and_bias(block + "ff.net.2", h, 4 * h)
    yield from weight_and_bias("transformer.proj_out", h, h, 1, 1)
    yield "conv_out.weight", (config.num_experts, h, 1, 1)


def _tuple(name: str, value: Any) -> tuple:
    if not isinstance(value, tuple):
        raise ConfigError(f"{name} should be a list, found {value!r:.40}")
    return value


def _whole(name: str, value: Any, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{name} should be a whole number from {low} to {high}, found {value!r:.40}")
