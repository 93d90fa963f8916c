"""Runs the workflow templates on the pocket experts and draws their thumbnails from what they painted.

    python -m tests.tools.thumbnails [NAME ...]

The templates are run as they are, but for small pictures and short trainings; beside the files of tests/support/stand_ins.py there are
LoRAs taken out of the pocket experts, emoji with captions, and prompts for some.
The training learns from pictures that npm fetches, of what two of the experts know each: there a minute is enough to learn
whom to follow.
"""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file

from tests.pocket import assemble, folder
from tests.support.comfy.bootstrap import REPOSITORY, make_base
from tests.support.comfy.server import LiveServer
from tests.support.comfy.templates import FOLDER, Prompt, alone, find, template, with_values
from tests.support.stand_ins import NET, stand_ins
from tests.tools.demo import EXPERTS, SAMPLING, TRAINED

SIDE = 512
LABEL = 26
GAP = 8
PROMPT = "twemoji, red apple, food fruit"
SUBJECTS = [
    f"{hand}, {subject}"
    for hand in ("twemoji", "noto")
    for subject in ("red apple, food fruit", "cat face, animal mammal", "grinning face, face smiling")
]
STEPS = 20
COMMON = {
    "Prompt": {"text": PROMPT},
    "Negative prompt": {"text": ""},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "EmptySD3LatentImage": {"width": 64, "height": 64},
    "KSampler": {**SAMPLING, "steps": STEPS, "seed": 1},
    "AFATrainer": {
        "steps": 60, "batch_size": 8, "resolution": 64, "hidden_size": 64, "num_layers": 1, "num_heads": 4, "warmup_steps": 10,
        "learning_rate": 1e-3, "evaluate_every": 10, "sample_every": 1000, "gradient_checkpointing": False,
    },
    "AFADistill": {
        "steps": 80, "batch_size": 8, "resolution": 64, "warmup_steps": 10, "learning_rate": 2e-3, "evaluate_every": 20, "ema": 0.9,
        "labels_per_item": 16, "gradient_checkpointing": False, "paint_steps": 20, "paint_cfg": SAMPLING["cfg"],
    },
    "AFAProbe": {"pictures": 12, "noises": 4, "resolution": 64},
    "AFAAutoMerge": {**SAMPLING, "steps": 8, "budget": 8, "prompts": "\n".join(SUBJECTS[:2]), "negative": ""},
    "ControlNetApplyAdvanced": {"strength": 0.0},
}  # fmt: skip
"""The ControlNet is random: it has a place in the graph and no say in the picture."""

KNOWN = {"prompt_folder": "known_pictures", "steps": 240, "evaluate_every": 30}
"""A training on `known_pictures`, which shows something."""

METHODS = [
    "checkpoint 1", "checkpoint 2", "checkpoint 3", "weighted merge", "step switch", "noise average", "block average",
    "magic fusion", "AFA",
]  # fmt: skip
"""The rows of AFA Compare, in its order."""

Tile = tuple[Image.Image, str]


class Runner:
    """Runs one template and variants of it."""

    def __init__(self, server: LiveServer, name: str):
        self.server = server
        self.prompt = with_values(template(name, server.get("/object_info")), COMMON)

    def pictures(self, kind: str = "SaveImage", prompt: Prompt | None = None) -> dict[str, list[Image.Image]]:
        """What the nodes of a kind show, by their titles."""
        prompt = prompt or self.prompt
        history = self.server.run(prompt, timeout=3000)
        return {
            prompt[node]["_meta"]["title"]: [
                Image.open(io.BytesIO(data)).convert("RGB") for data in self.server.images(history, node)
            ]
            for node in find(prompt, kind)
        }

    def saved(self, prompt: Prompt | None = None) -> Image.Image:
        (((picture,)),) = self.pictures(prompt=prompt).values()
        return picture

    def alone(self, kind: str) -> list[Image.Image]:
        """Each expert's own picture, by itself, from the loaders of a kind."""
        return [self.saved(alone(self.prompt, loader)) for loader in find(self.prompt, kind)]

    def shown(self, source: list) -> Image.Image:
        return self.all_shown(source)[0]

    def all_shown(self, source: list) -> list[Image.Image]:
        """The pictures that an output gives, which the template itself may leave unconnected."""
        prompt = {
            **self.prompt,
            "shown": {"class_type": "PreviewImage", "inputs": {"images": source}, "_meta": {"title": "shown"}},
        }
        return self.pictures("PreviewImage", prompt)["shown"]


# ------------------------------------------------------------------ what a thumbnail shows
def quick_start(run: Runner) -> Image.Image:
    experts = [(picture, f"checkpoint {i}") for i, picture in enumerate(run.alone("CheckpointLoaderSimple"), start=1)]
    return stacked([(run.saved(), "together")], experts)


def sd15_ensemble(run: Runner) -> Image.Image:
    (maps,) = find(run.prompt, "AFARoutingMaps")
    panels = run.shown([maps, 0])
    heat_maps = panels.crop((0, 0, panels.width, panels.height // 2))
    return stacked([(run.saved(), "three checkpoints, one aggregator")], [(heat_maps, "")])


def sdxl_with_loras(run: Runner) -> Image.Image:
    own = [(picture, f"with LoRA {i}") for i, picture in enumerate(run.alone("LoraLoader"), start=1)]
    return stacked([(run.saved(), "both")], own)


def three_loras(run: Runner) -> Image.Image:
    own = [(picture, f"LoRA {i}") for i, picture in enumerate(run.alone("LoraLoader"), start=1)]
    return stacked([(run.saved(), "one checkpoint, three LoRAs")], own)


def three_loras_dit(run: Runner) -> Image.Image:
    own = [(picture, f"LoRA {i}") for i, picture in enumerate(run.alone("LoraLoaderModelOnly"), start=1)]
    return stacked([(run.saved(), "one DiT, three LoRAs")], own)


def flux_ensemble(run: Runner) -> Image.Image:
    return diagram(["Flux.1 model 1", "Flux.1 model 2"], "block by block, one picture")


def anima_ensemble(run: Runner) -> Image.Image:
    return diagram(["Anima 1", "Anima 2", "Anima 3"], "block by block, one picture")


def control_and_high_res(run: Runner) -> Image.Image:
    return stacked([(run.saved(), "ControlNet, then high-res fix")])


def probe_experts(run: Runner) -> Image.Image:
    (probe,) = find(run.prompt, "AFAProbe")
    plot = run.shown([probe, 1])
    gains = plot.crop((0, plot.height // 15, round(plot.width * 0.53), round(plot.height * 0.54)))
    return stacked([(gains, "Is it worth it?")])


def train_aggregator(run: Runner) -> Image.Image:
    (trainer,) = find(run.prompt, "AFATrainer")
    run.prompt[trainer]["inputs"] |= KNOWN
    return stacked([(left_half(run.shown([trainer, 1])), "Train your own aggregator")])


def train_from_prompts(run: Runner) -> Image.Image:
    (trainer,) = find(run.prompt, "AFATrainer")
    return stacked([(run.saved(), "trained from prompts alone")], [(left_half(run.shown([trainer, 1])), "")])


def distil_to_lora(run: Runner) -> Image.Image:
    (distiller,) = find(run.prompt, "AFADistill")
    return stacked([(run.saved(), "one model, taught by three")], [(left_half(run.shown([distiller, 1])), "")])


def left_half(plot: Image.Image) -> Image.Image:
    """The losses, without the shares beside them."""
    return plot.crop((0, 0, plot.width // 2 + 6, plot.height))


def compare_methods(run: Runner) -> Image.Image:
    (comparison,) = find(run.prompt, "AFACompare")
    widgets = {"prompt": PROMPT, "negative": "", "width": 64, "height": 64, "seeds": "1", "steps": STEPS, **SAMPLING}
    run.prompt[comparison]["inputs"] |= widgets
    pictures = run.all_shown([comparison, 1])
    tiles = list(zip(pictures, METHODS, strict=True))
    return stacked(tiles[:3], tiles[3:6], tiles[6:])


def ensemble_from_file(run: Runner) -> Image.Image:
    style = {"Style": {"text": "detailed"}, "AFAScoreImages": {"prompt": PROMPT}}
    run.prompt = with_values(run.prompt, style)
    return stacked([(run.saved(), "one file, three checkpoints")])


def auto_block_merge(run: Runner) -> Image.Image:
    return stacked([(picture, title.lower()) for title, (picture,) in run.pictures().items()])


THUMBNAILS: dict[str, Callable[[Runner], Image.Image]] = {
    draw.__name__: draw
    for draw in (
        quick_start, sd15_ensemble, sdxl_with_loras, three_loras, three_loras_dit, flux_ensemble, anima_ensemble,
        control_and_high_res, probe_experts, train_aggregator,
        train_from_prompts, distil_to_lora, compare_methods, ensemble_from_file, auto_block_merge,
    )
}  # fmt: skip


# ------------------------------------------------------------------ drawing
def diagram(experts: list[str], result: str) -> Image.Image:
    """Experts whose features meet, where no small ones were trained that could paint."""
    sheet = Image.new("RGB", (SIDE, SIDE), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(22)
    colours = ("#4e79a7", "#f28e2b", "#59a14f")
    step = SIDE // len(experts)
    for number, (name, colour) in enumerate(zip(experts, colours, strict=False)):
        middle = step * number + step // 2
        pen.text((middle, 40), name, fill=colour, font=font, anchor="mm")
        for block in range(5):
            top = 70 + 62 * block
            pen.rounded_rectangle((middle - step * 0.3, top, middle + step * 0.3, top + 40), 8, fill=colour)
            pen.line((middle, top + 40, middle, top + 62), fill=colour, width=4)
            pen.line((step // 2, top + 51, SIDE - step // 2, top + 51), fill="#999", width=3)
        pen.line((middle, 380, SIDE // 2, 430), fill=colour, width=4)
    pen.text((SIDE // 2, 460), result, fill="#333", font=font, anchor="mm")
    return sheet


def stacked(*rows: list[Tile]) -> Image.Image:
    """Rows of labelled pictures on a square, as the list of templates shows it; further rows are small below the first."""
    sheet = Image.new("RGB", (SIDE, SIDE), "white")
    equal = len({len(row) for row in rows}) == 1
    tall = SIDE // len(rows) if equal else round(SIDE * 0.3)
    top = 0
    for number, row in enumerate(rows):
        height = tall if equal or number else SIDE - tall * (len(rows) - 1)
        for column, (picture, label) in enumerate(row):
            box = (column * SIDE // len(row), top, SIDE // len(row), height)
            _tile(sheet, box, picture, label)
        top += height
    return sheet


def _tile(sheet: Image.Image, box: tuple[int, int, int, int], picture: Image.Image, label: str) -> None:
    left, top, width, height = box
    room = (width - 2 * GAP, height - 2 * GAP - (LABEL if label else 0))
    scale = min(room[0] / picture.width, room[1] / picture.height)
    size = (round(picture.width * scale), round(picture.height * scale))
    fitted = picture.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    sheet.paste(fitted, (left + (width - size[0]) // 2, top + GAP + (room[1] - size[1]) // 2))
    if label:
        font = ImageFont.load_default(19 if len(label) * 10 < width else 15)
        at = (left + width // 2, top + height - GAP - LABEL // 2)
        ImageDraw.Draw(sheet).text(at, label, fill="#333", font=font, anchor="mm")


# ------------------------------------------------------------------ files
def extracted_lora(expert: Path, base: Path, rank: int = 16) -> dict[str, torch.Tensor]:
    """What makes an expert of its base, in every matrix of the U-Net, as the LoRA of this rank that is nearest to it."""
    one, other = load_file(expert), load_file(base)
    state = {}
    for key in one:
        if not (key.startswith(NET) and key.endswith(".weight") and one[key].ndim == 2):
            continue
        u, s, v = torch.linalg.svd(one[key].float() - other[key].float(), full_matrices=False)
        name = "diffusion_model." + key.removeprefix(NET).removesuffix(".weight")
        state[f"{name}.lora_up.weight"] = (u * s)[:, :rank].contiguous()
        state[f"{name}.lora_down.weight"] = v[:rank].contiguous()
    return state


def pocket_files(base: Path) -> None:
    """In place of what tests/support/stand_ins.py makes at random: what the pocket experts have of it."""
    models = base / "models"
    checkpoints = models / "checkpoints"
    (models / "afa" / "your_aggregator_1_2_3.safetensors").write_bytes(TRAINED.read_bytes())
    for number, expert in enumerate(EXPERTS, start=1):
        state = extracted_lora(checkpoints / f"{expert}.safetensors", checkpoints / "pocket_base.safetensors")
        for kind in ("lora", "dit_lora"):
            save_file(state, models / "loras" / f"your_{kind}_{number}.safetensors")
    (base / "input" / "my_prompts" / "prompts.txt").write_text("\n".join(SUBJECTS))
    (base / "input" / "my_prompts" / "held_out.txt").write_text(SUBJECTS[0])
    pictures = base / "input" / "my_pictures"
    for old in pictures.iterdir():
        old.unlink()
    for path in (REPOSITORY / "tests" / "emoji").glob("*/*.*"):
        (pictures / path.name).write_bytes(path.read_bytes())


def known_pictures(place: Path) -> None:
    """A prompt folder of what the first two experts know, in three hands."""
    for domain in ("people", "animals"):
        shutil.copytree(folder.known() / domain, place / domain)


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        base = make_base(Path(scratch))
        assemble.ensure(base / "models" / "checkpoints")
        with stand_ins(base, EXPERTS, ["pocket_base", "pocket_base"], "pocket_base"), LiveServer(base) as server:
            pocket_files(base)
            known_pictures(base / "input" / KNOWN["prompt_folder"])
            for name in names or THUMBNAILS:
                path = FOLDER / f"{name}.jpg"
                THUMBNAILS[name](Runner(server, name)).save(path, quality=88)
                print(f"{path.relative_to(REPOSITORY)}  {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])
