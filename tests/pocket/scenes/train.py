"""Trains the scenes' base and its experts: python tests/pocket scenes.train [stages ...] [--minutes M]

Stages: base (with the text encoder, from the base of single pictures, which `python tests/pocket train` leaves in
.pocket/), near_people, far_things and so on (from the base, the text encoder frozen), lora_people and so on (LoRAs of the
base, from the pictures of the near experts). Each can be interrupted and resumed (state in .pocket/), starts from a fixed
seed, and writes its weights to weights/scenes/ when it ends; a stage whose weights are there is skipped.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from .. import common, diffusion, packing, stages, unet  # noqa: E402
from . import low_rank, models, pictures  # noqa: E402

STAGES = ("base", *(f"{kind}_{domain}" for kind in models.KINDS for domain in common.DOMAINS))
MINUTES = {"base": 42.0, "near": 28.0, "far": 20.0, "lora": 5.0}
BATCH = {"pairs": 32, "singles": 64}
SINGLES_EVERY = 4
"""Every so manieth step shows single pictures."""
PEAK = {"base": 1.2e-3, "near": 8e-4, "far": 8e-4, "lora": 3e-3}
DECAY = {"base": 0.998, "near": 0.995, "far": 0.995, "lora": 0.995}
"""Of the average of the weights."""
EXPERT_DROPOUT = 0.1
"""Of a residual block's features, or an expert only memorises."""
EXPERT_NO_WORD = 0.3
"""Share of words made unknown, or an expert asks for the name alone, and is lost where it is new."""


class Source:
    """Batches of a pool: latents and token ids, captions in the forms of diffusion.FORMS."""

    def __init__(self, pool: pictures.Pool, batch: int) -> None:
        self.latents, self.batch = pool.latents, batch
        self.order = diffusion.Shuffled(len(pool.latents))
        handless = [tuple(c.split(", ", 1)[1] for c in parts) for parts in pool.captions]
        kindless = [tuple(c.rsplit(", ", 1)[0] for c in parts) for parts in pool.captions]
        self.forms = torch.stack([models.tokenize(form) for form in (pool.captions, handless, kindless)])
        empty = diffusion.text.tokenize([""]).expand(self.forms.shape[1:])
        self.forms = torch.cat([self.forms, empty[None]])

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        index = self.order.next(self.batch)
        form = torch.multinomial(torch.tensor(diffusion.FORMS), len(index), replacement=True)
        return self.latents[index], self.forms[form, index]


def drawn(sources: list[Source], step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch of a step: of the pairs, or of the singles."""
    return sources[step % SINGLES_EVERY == SINGLES_EVERY - 1].next()


def train(stage: str, minutes: float) -> None:
    kind = stage.partition("_")[0]
    base = kind == "base"
    both = models.first() if base else models.base()
    sources = [Source(pool, batch) for pool, batch in zip(pictures.pools(_shown(stage)), BATCH.values(), strict=True)]
    both.train().unet.requires_grad_(kind != "lora")
    for module in both.unet.modules():
        if not base and isinstance(module, torch.nn.Dropout):
            module.p = EXPERT_DROPOUT
    trained = both if base else low_rank.attach(both.unet) if kind == "lora" else both.unet
    unknown, table = diffusion.NO_WORD if base else EXPERT_NO_WORD, unet.alphas()

    def loss(step: int) -> tuple[torch.Tensor, int]:
        x0, ids = drawn(sources, step)
        x, v = unet.noised(x0, torch.randn_like(x0), t := unet.stratified(len(x0)), table)
        with torch.set_grad_enabled(base):
            context = both.context(ids, unknown)
        return (unet.predict(both.unet, x, t, context) - v).square().mean(), len(x0)

    run = stages.fit(f"scenes_{stage}", minutes, both, trained, (PEAK[kind], DECAY[kind]), loss)
    write(stage, both)
    run.say(f"done after {run.step} steps")


def _shown(stage: str) -> str:
    """The pool of a stage."""
    return stage.replace("lora", "near")


def write(stage: str, both: models.Both) -> None:
    """The averaged weights as they are committed: float16, an expert as 8-bit differences from the base, a LoRA as itself."""
    models.WEIGHTS.mkdir(exist_ok=True)
    weights = both.unet.state_dict()
    if stage == "base":
        words = {k: v.detach() if k == "vocabulary" else v.detach().half() for k, v in both.text.state_dict().items()}
        save_file({k: v.contiguous() for k, v in words.items()}, models.WEIGHTS / "text_encoder.safetensors")
        packed = {k: v.half() for k, v in weights.items()}
    elif stage.startswith("lora"):
        packed = low_rank.state(both.unet)
    else:
        packed = packing.pack(weights, load_file(models.WEIGHTS / "base.safetensors"))
    save_file({k: v.contiguous() for k, v in packed.items()}, models.WEIGHTS / f"{stage}.safetensors")


def main() -> None:
    stages.command(__doc__, STAGES, lambda stage: MINUTES[stage.partition("_")[0]], models.WEIGHTS, train)


if __name__ == "__main__":
    main()
