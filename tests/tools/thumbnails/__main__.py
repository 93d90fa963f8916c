"""python -m tests.tools.thumbnails [NAME ...]"""

import os
import sys

from PIL import Image

from tests.support.comfy.bootstrap import REPOSITORY
from tests.support.comfy.templates import FOLDER

from . import diagrams, painted
from .files import server
from .runner import Runner

PAINTED = (
    painted.quick_start, painted.sd15_ensemble, painted.sdxl_with_loras, painted.three_loras,
    painted.compare_methods, painted.ensemble_from_file,
)  # fmt: skip
DIAGRAMS = (
    diagrams.probe_experts, diagrams.train_aggregator, diagrams.train_from_prompts, diagrams.distil_to_lora,
    diagrams.auto_block_merge, diagrams.z_image_with_loras,
    diagrams.flux_ensemble, diagrams.anima_ensemble, diagrams.control_and_high_res,
)  # fmt: skip


def keep(name: str, picture: Image.Image) -> None:
    path = FOLDER / f"{name}.jpg"
    picture.save(path, quality=90)
    print(f"{path.relative_to(REPOSITORY)}  {path.stat().st_size / 1000:.0f} kB", flush=True)


def main(names: list[str]) -> None:
    asked = [draw for draw in (*PAINTED, *DIAGRAMS) if not names or draw.__name__ in names]
    for draw in DIAGRAMS:
        if draw in asked:
            keep(draw.__name__, draw())
    if any(draw in asked for draw in PAINTED):
        with server() as running:
            for draw in PAINTED:
                if draw in asked:
                    keep(draw.__name__, draw(Runner(running, draw.__name__)))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])
