"""What the thumbnail of a template that paints shows."""

from PIL import Image

from tests.support.comfy.templates import find, with_values
from tests.tools.demo import PROMPT

from . import layouts
from .look import INK
from .runner import Runner

DOMAINS = ("people", "animals", "things")


def quick_start(run: Runner) -> Image.Image:
    own = layouts.named(run.alone("CheckpointLoaderSimple"), DOMAINS)
    return layouts.gathered("Three checkpoints, one picture", own, run.saved())


def sd15_ensemble(run: Runner) -> Image.Image:
    return layouts.over_map("Which expert leads where", run.saved(), run.routing())


def sdxl_with_loras(run: Runner) -> Image.Image:
    own = layouts.named(run.alone("LoraLoader"), ("LoRA 1", "LoRA 2"))
    return layouts.gathered("Each with its own LoRA", own, run.saved())


def three_loras(run: Runner) -> Image.Image:
    own = layouts.named(run.alone("LoraLoader"), ("LoRA 1", "LoRA 2", "LoRA 3"))
    return layouts.gathered("Three LoRAs as experts", own, run.saved())


def compare_methods(run: Runner) -> Image.Image:
    (comparison,) = find(run.prompt, "AFACompare")
    *alone, merge, noises, afa = run.shown([comparison, 1])
    left = layouts.named(alone, DOMAINS)
    right = [(merge, "weighted merge", None), (noises, "noise average", None), (afa, "AFA", INK)]
    return layouts.compared("Every method, side by side", list(zip(left, right, strict=True)))


def ensemble_from_file(run: Runner) -> Image.Image:
    run.prompt = with_values(run.prompt, {"Style": {"text": PROMPT}})
    return layouts.from_file("One file, one ensemble", run.saved())
