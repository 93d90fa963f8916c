"""Scores of pictures."""

from __future__ import annotations

import json

from comfy_api.latest import io

from ..afa_core.host.scoring.scorers import SCORERS, WHOLE_SET, check_scorers
from ..afa_core.scoring.statistics import by_prompt, summarise
from .sockets import schema

NONE = "none"


class AFAScoreImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        also = [
            io.Combo.Input(
                f"scorer_{i}", options=[NONE, *SCORERS], default=NONE, optional=True,
                tooltip="Another scorer, whose numbers are in the scores as well.",
            )
            for i in (2, 3, 4)
        ]  # fmt: skip
        return schema(
            node_id="AFAScoreImages",
            display_name="AFA Score Images",
            description="Scores pictures by CLIP, aesthetics or human preference. The scorers' weights are files of yours.",
            search_aliases=["clip score", "aesthetic score", "pickscore", "hps", "fid", "metric"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures to score."),
                io.String.Input(
                    "prompt", default="", multiline=True,
                    tooltip="The prompt of all pictures, or one line a picture.",
                ),
                io.Combo.Input(
                    "scorer", options=list(SCORERS), default="HPSv2.1",
                    tooltip="CLIP-T: agreement with the prompt. AES: beauty. PickScore, HPSv2, ImageReward: what people prefer. "
                    "CLIP-I and FID: likeness to the references. IS: clear and varied objects.",
                ),
                *also,
                io.Image.Input("references", optional=True, tooltip="Real pictures, for CLIP-I (one each) and FID."),
            ],
            outputs=[io.String.Output(display_name="scores"), io.Float.Output(display_name="mean")],
        )  # fmt: skip

    @classmethod
    def execute(cls, images, prompt: str, scorer: str, references=None, **others) -> io.NodeOutput:
        prompts = one_each(prompt, len(images))
        wanted = dict.fromkeys([scorer, *(name for _, name in sorted(others.items()) if name != NONE)])
        check_scorers(wanted, len(images), None if references is None else len(references))
        report = {name: _scored(name, images, prompts, references) for name in wanted}
        return io.NodeOutput(json.dumps(report), report[scorer]["mean"])


def _scored(name: str, images, prompts: list[str], references) -> dict:
    scores = SCORERS[name]()(images, prompts, references).tolist()
    if name in WHOLE_SET:
        return {"mean": scores[0]}
    summary = summarise(list(by_prompt(prompts, scores).values()))
    error = {} if summary.n == 1 else {"standard_error": summary.standard_error}
    return {"mean": summary.mean, **error, "images": scores}


def one_each(text: str, pictures: int) -> list[str]:
    """The lines of a text as one prompt a picture. Raises ValueError where their number fits neither 1 nor all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    if len(lines) == 1:
        return lines * pictures
    if len(lines) != pictures:
        raise ValueError(
            f"There are {len(lines)} prompts for {pictures} pictures: give one prompt for all, or one line a picture."
        )
    return lines
