"""Searching block weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from textwrap import indent

import comfy.samplers
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..afa_core.host.experts.fingerprint import clip_digest, patcher_digest, vae_digest
from ..afa_core.host.merging.merge import check_mergeable, merge_models
from ..afa_core.host.merging.painting import MergePainter, encode_prompts
from ..afa_core.host.scoring.scorers import NEEDS_REFERENCES, SCORERS, SIGNED, WHOLE_SET
from ..afa_core.merging.journal import Journal, run_search
from ..afa_core.merging.recipe import MergeError
from ..afa_core.merging.search import STRATEGIES, SearchSpace
from ..afa_core.scoring.statistics import by_prompt, compare
from .sockets import experts, numbered, schema
from .training import file_name

SEARCHABLE = [name for name in SCORERS if name not in WHOLE_SET | NEEDS_REFERENCES]


class AFAAutoMerge(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFAAutoMerge",
            display_name="AFA Auto Block Merge",
            description="Searches the block weights of a merge: paints your prompts with many merges and keeps the best scored.",
            search_aliases=["autombw", "auto mbw", "optimise merge", "block weights search"],
            inputs=[
                *numbered(io.Model, "model", "A checkpoint of the same architecture as the others, with its LoRAs: model"),
                io.Clip.Input("clip", tooltip="The text encoder for all merges. It is not merged."),
                io.Vae.Input("vae", tooltip="The VAE for all merges. It is not merged."),
                io.Latent.Input("latent_image", tooltip="An empty latent: the size, and how many pictures a prompt."),
                io.String.Input("prompts", default="", multiline=True, tooltip="One prompt a line. More prompts make the choice more reliable."),
                io.String.Input("negative", default="", multiline=True, tooltip="The negative prompt of all pictures."),
                io.Combo.Input("scorer", options=SEARCHABLE, default="HPSv2.1", tooltip="What judges the pictures. Judge the result by another one."),
                io.Combo.Input(
                    "method", options=list(STRATEGIES), default=next(iter(STRATEGIES)),
                    tooltip="CMA-ES moves all blocks together (needs the package cmaes). binary mid is autoMBW's own search: one "
                    "pair of blocks at a time, three passes, about 250 merges for SD1.5.",
                ),
                io.Int.Input("budget", default=100, min=2, max=10000, tooltip="How many merges to try, those of an earlier run included."),
                io.String.Input("save_as", default="auto_merge", tooltip="The search is kept in output/afa_merges under this name, and goes on from there."),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps a picture."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale."),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="dpmpp_2m", tooltip="The sampler."),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="karras", tooltip="The noise schedule."),
                io.Int.Input(
                    # The front end would draw another seed after every run, and each is a search of its own.
                    "seed", default=1, min=0, max=2**48, control_after_generate=False,
                    tooltip="Every merge paints from the same noise. Also the seed of the search.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model"), io.String.Output(display_name="report")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, clip, vae, latent_image, prompts, negative, scorer, method, budget, save_as, seed, steps, cfg, sampler_name,
        scheduler, **models,
    ) -> io.NodeOutput:  # fmt: skip
        found = experts(cls, models)
        check_mergeable(found)
        lines = [line.strip() for line in prompts.splitlines() if line.strip()]
        if not lines:
            raise MergeError("prompts is empty: give one prompt a line for the merges to paint.")
        space = SearchSpace(len(found), found[0].merge_blocks)
        stem, strategy = file_name(save_as), STRATEGIES[method](space, seed)
        score = SCORERS[scorer]()
        latent = latent_image["samples"]
        settings = {"steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
        identity = {
            "models": [patcher_digest(expert.patcher) for expert in found],
            "clip": clip_digest(clip), "vae": vae_digest(vae), "latent": list(latent.shape), "prompts": lines,
            "negative": negative, "scorer": scorer, "method": method, "seed": seed, **settings,
        }  # fmt: skip
        journal = Journal(_journal_path(stem, identity), space, identity)
        paint = MergePainter(encode_prompts(clip, lines), encode_prompts(clip, [negative])[0], vae, latent, seed, settings)
        each = [line for line in lines for _ in range(len(latent))]

        def evaluate(vector):
            scores = score(paint(merge_models(found, space.recipe(vector))), each)
            if vector == space.uniform and not scores.isfinite().all():
                raise MergeError(
                    "The equal merge of these models paints NaN or infinite numbers, which cannot be scored: start ComfyUI with --fp32-vae, "
                    "or with --bf16-unet or --fp32-unet."
                )
            # The sigmoid as autoMBW does, so that the means of its later passes are defined. NaN is the worst.
            return (scores.sigmoid() if scorer in SIGNED else scores).nan_to_num(0.0, 0.0, 0.0).tolist()

        bar = comfy.utils.ProgressBar(budget)
        run_search(strategy, journal, evaluate, budget, lambda tried: bar.update_absolute(tried, budget))
        best = merge_models(found, space.recipe(journal.best))
        return io.NodeOutput(best, report(journal, space, each, scorer, [expert.label for expert in found]))


def report(journal: Journal, space: SearchSpace, prompts: list[str], scorer: str, labels: list[str]) -> str:
    """The best recipe, ready for AFA Merge Models, and how sure it is to be better than equal shares."""
    uniform, best = (journal.tried[vector] for vector in (space.uniform, journal.best))
    found = compare(by_prompt(prompts, best), by_prompt(prompts, uniform))
    name = f"sigmoid of {scorer}" if scorer in SIGNED else scorer
    paragraphs = [
        f"{name} {journal.score(journal.best):.4f} after {len(journal.tried)} merges; equal shares {journal.score(space.uniform):.4f}",
        f"better on {found.wins} of {found.difference.n} prompts, worse on {found.losses}; the mean difference is {found.difference}",
        f"kept in {journal.path.name}; shares of {', '.join(labels)}:",
        # Set in, so that front ends that show Markdown keep the lines.
        indent(space.recipe(journal.best).table(), "    "),
    ]
    return "\n\n".join(paragraphs)


def _journal_path(stem: str, identity: dict) -> Path:
    """A file of its own for every search, so that another prompt does not overwrite the last one's."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Path(folder_paths.get_output_directory(), "afa_merges", f"{stem}_{digest[:10]}.json")
