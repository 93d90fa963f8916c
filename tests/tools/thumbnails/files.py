"""A live server with the files that the templates name, those of the scenes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pocket import common
from tests.pocket.scenes import checkpoints
from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.server import LiveServer
from tests.support.stand_ins import stand_ins
from tests.tools.demo import EXPERTS, TRAINED


@contextmanager
def server() -> Iterator[LiveServer]:
    """In place of what tests/support/stand_ins.py makes at random: the trained aggregator and LoRAs."""
    with tempfile.TemporaryDirectory() as scratch:
        base = make_base(Path(scratch))
        models = base / "models"
        checkpoints.ensure(models / "checkpoints", [checkpoints.BASE, *EXPERTS])
        with stand_ins(base, EXPERTS, [checkpoints.BASE] * 2), LiveServer(base) as running:
            (models / "afa" / "your_aggregator_1_2_3.safetensors").write_bytes(TRAINED.read_bytes())
            for number, domain in enumerate(common.DOMAINS, start=1):
                trained = TRAINED.with_name(f"lora_{domain}.safetensors")
                (models / "loras" / f"your_lora_{number}.safetensors").write_bytes(trained.read_bytes())
            yield running
