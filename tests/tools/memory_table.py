"""How much memory N experts need: weights counted from their published sizes, the aggregator's from its configuration.

python -m tests.tools.memory_table
"""

import math

from afa_core.aggregator.config import AggregatorConfig
from afa_core.host.architectures.unet_layout import unet_points

GB = 1e9
HALF = 2  # bytes of a weight in fp16 or bf16
RANK = 32

# parameters of the U-Net, its fusion points, text width, width of the time embedding
FAMILIES = {
    "SD1.5": (859_520_964, unet_points(320, [1, 2, 4, 4], [2] * 4, 4), 768, 1280),
    "SDXL": (2_567_463_684, unet_points(320, [1, 2, 4], [2] * 3, 4), 2048, 1280),
}


LORA = {"SD1.5": 423_936, "SDXL": 2_659_840}
"""Parameters of a LoRA for each rank: rows and columns of every layer of the U-Net's transformers."""


def aggregator_parameters(family: str, experts: int) -> int:
    _, points, text, time = FAMILIES[family]
    channels = tuple(point.channels for point in points)
    config = AggregatorConfig(family, channels, experts, text_width=text, time_width=time)
    return sum(math.prod(shape) for _, shape in config.shapes())


def rows() -> list[tuple[str, int, float, float]]:
    """(family, experts, GB of all U-Nets, GB of the aggregator), in half precision."""
    return [
        (family, experts, experts * FAMILIES[family][0] * HALF / GB, aggregator_parameters(family, experts) * HALF / GB)
        for family in FAMILIES
        for experts in (2, 3, 4, 5)
    ]


def lora_rows() -> list[tuple[str, int, float, float]]:
    """(family, experts, GB of one U-Net with a LoRA an expert, GB of the aggregator), in half precision."""
    return [
        (
            family,
            experts,
            (FAMILIES[family][0] + experts * RANK * LORA[family]) * HALF / GB,
            aggregator_parameters(family, experts) * HALF / GB,
        )
        for family in FAMILIES
        for experts in (2, 4, 8)
    ]


def lora_table() -> str:
    lines = [f"| | LoRAs of rank {RANK} | one U-Net and the LoRAs | aggregator | together |", "|---|---|---|---|---|"]
    lines += [f"| {f} | {n} | {nets:.1f} GB | {own:.2f} GB | {nets + own:.1f} GB |" for f, n, nets, own in lora_rows()]
    return "\n".join(lines)


def table() -> str:
    lines = ["| | checkpoints | their U-Nets | aggregator | together |", "|---|---|---|---|---|"]
    lines += [f"| {f} | {n} | {nets:.1f} GB | {own:.2f} GB | {nets + own:.1f} GB |" for f, n, nets, own in rows()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(), lora_table(), sep="\n\n")
