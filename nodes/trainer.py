"""Training an aggregator inside ComfyUI."""

from __future__ import annotations

import re
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ..afa_core.aggregator.config import ABLATIONS, AggregatorConfig
from ..afa_core.atomic_file import check_writable
from ..afa_core.fusion.sabw_fusion import SABWFusion
from ..afa_core.host.experts.checkpoints import model_digest
from ..afa_core.host.experts.experts import Expert, check_experts
from ..afa_core.host.files import aggregator_folder
from ..afa_core.host.out_of_memory import TRAINING, naming_what_ran
from ..afa_core.host.training.encoding import (
    DatasetSettings,
    HostDataset,
    prepare_dataset,
    prompt_folder_path,
    prompt_folder_stamp,
    texts_of_prompt,
)
from ..afa_core.host.training.frozen_experts import HostExperts, outside_inference
from ..afa_core.host.training.preview import sample_picture
from ..afa_core.training.data.prompt_folder import read_prompt_folder
from ..afa_core.training.loop import Report, Stop, TrainingSettings
from ..afa_core.training.report import loss_plot, report_text
from ..afa_core.training.session import TrainingError, fit
from .kept import workflow_id
from .live import TrainingFeed
from .sockets import AggregatorType, experts, schema, source_file
from .trainer_inputs import ABLATION_CHOICES, trainer_inputs

FEWEST = 10
"""Pictures, or prompts, below which none can be held out, and nothing would tell whether training helps."""


class AFATrainer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFATrainer",
            display_name="Train AFA Aggregator",
            description="Trains the small network that fuses your checkpoints, from a folder of pictures and captions.",
            search_aliases=["train ensemble", "fit aggregator", "adaptive feature aggregation", "sabw"],
            inputs=trainer_inputs(),
            outputs=[
                AggregatorType.Output(display_name="aggregator"),
                io.Image.Output(display_name="loss_plot"),
                io.String.Output(display_name="report"),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            not_idempotent=True,
            is_output_node=True,
            is_input_list=True,
        )

    @classmethod
    def fingerprint_inputs(cls, prompt_folder: list[str], **inputs) -> str:
        return prompt_folder_stamp(prompt_folder[0])

    @classmethod
    def execute(cls, latents=None, conditioning=None, **inputs) -> io.NodeOutput:
        # The host hands lists to every input, since those of its dataset nodes are lists.
        widgets = {name: values[0] for name, values in inputs.items()}
        models = experts(cls, {name: value for name, value in widgets.items() if name.startswith("model_")})
        check_experts(models)
        config = _config(models, widgets)
        path = aggregator_folder() / f"{_file_name(widgets['save_as'])}.safetensors"
        check_writable(path.parent)
        settings = TrainingSettings(**{name: widgets[name] for name in TrainingSettings.__dataclass_fields__})
        labels, workflow = [model.label for model in models], workflow_id(cls.hidden.extra_pnginfo)
        feed = TrainingFeed(cls.hidden.unique_id, labels, settings.steps, workflow)
        try:
            source = _source(widgets, latents, conditioning)
            dataset = _dataset(models, widgets, source, feed)
            identity = {"experts": [_identity(cls, model) for model in models], "data": dataset.digest}
            channels, height, width = dataset.train_batch(0).latents.shape[1:]
            size = (channels, height, width)
            sample_texts = _sample_texts(models, widgets, size)
            with outside_inference(), naming_what_ran("Training", TRAINING):
                frozen = HostExperts(models, widgets["gradient_checkpointing"])
                frozen.load([settings.batch_size, *size])
                listener = _listener(feed, frozen, widgets, sample_texts, size)
                file, state = fit(
                    frozen,
                    dataset,
                    config,
                    settings,
                    identity,
                    path,
                    widgets["resume"],
                    widgets["save_every"],
                    listener,
                )
            feed.finish(f"{state.finished}, saved as {path.name}")
        finally:
            feed.finish()
        report = f"{report_text(file, state)}\n\n{dataset.summary()}"
        return io.NodeOutput(file, loss_plot(state, frozen.labels), report)


def _config(models: list[Expert], widgets: dict) -> AggregatorConfig:
    first, architecture, network = models[0], models[0].architecture, models[0].patcher.model
    return AggregatorConfig(
        architecture=first.architecture_name,
        channels=tuple(point.channels for point in first.points),
        num_experts=len(models),
        text_width=architecture.text_width(network),
        time_width=architecture.time_width(network),
        hidden_size=widgets["hidden_size"],
        num_layers=widgets["num_layers"],
        num_heads=widgets["num_heads"],
        ablations=tuple(name for name in ABLATIONS if ABLATION_CHOICES[name] == widgets["ablation"]),
        routing_stride=widgets["routing_stride"],
    )


def _file_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w .-]{0,99}", name):
        raise TrainingError(f"save_as should be a plain file name such as my_ensemble, found {name!r:.60}.")
    return name.removesuffix(".safetensors")


def _source(widgets: dict, latents: list | None, conditioning: list | None):
    if latents and conditioning:
        return HostDataset(latents, conditioning)
    return read_prompt_folder(prompt_folder_path(widgets["prompt_folder"]))


def _dataset(models: list[Expert], widgets: dict, source, feed: TrainingFeed):
    settings = DatasetSettings(
        **{name: widgets[name] for name in DatasetSettings.__dataclass_fields__ if name in widgets}
    )
    bar = comfy.utils.ProgressBar(1)

    def progress(done: int, total: int, what: str) -> None:
        bar.update_absolute(done, total)
        feed.send(step=0, message=f"{what} {done} of {total}")

    dataset = prepare_dataset(models, widgets.get("clip"), widgets.get("vae"), source, settings, progress)
    if not dataset.held_out_count:
        usable = len({item.key for item in dataset.items})
        raise TrainingError(
            f"The prompt folder has {usable} usable pictures or prompts, and training needs at least {FEWEST}, so that "
            "some can be held out to tell whether it helps."
        )
    return dataset


def _identity(cls: type[io.ComfyNode], model: Expert) -> dict[str, str]:
    socket = model.label.split(" ")[0]
    name = source_file(cls.hidden.prompt or {}, cls.hidden.unique_id, socket)
    return {"file": name or socket, "sha256": model_digest(model.patcher), "prediction": model.prediction}


def _sample_texts(models: list[Expert], widgets: dict, size: tuple[int, int, int]) -> list:
    """The sample prompt and the empty one, as texts of the experts; empty where nothing is to be painted."""
    prompt = widgets["sample_prompt"].strip()
    return [texts_of_prompt(models, widgets.get("clip"), text, size[1:]) for text in (prompt, "")] if prompt else []


def _listener(feed: TrainingFeed, frozen: HostExperts, widgets: dict, texts: list, size: tuple[int, int, int]):
    """Tells the artist what happens, and the training when to end."""
    bar = comfy.utils.ProgressBar(widgets["steps"])

    def listen(report: Report, aggregator) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        state = report.state
        fields: dict[str, Any] = {}
        if report.seconds_per_step:  # an evaluation comes between steps, and has none of its own
            fields = {"loss": state.losses[-1], "seconds_per_step": report.seconds_per_step}
        if report.evaluation:
            fields |= _evaluation_fields(report.evaluation, state.baselines, frozen.labels)
        if texts and report.evaluation and state.step % widgets["sample_every"] == 0:
            prompt, negative = texts
            fields["sample"] = sample_picture(
                frozen, SABWFusion(aggregator), widgets["vae"], prompt, negative, size, widgets["seed"]
            )
            frozen.load([widgets["batch_size"], *size])  # decoding may have moved the experts out
        feed.send(step=state.step, **fields)
        bar.update_absolute(state.step, widgets["steps"])
        if feed.stop_requested:
            raise Stop

    return listen


def _evaluation_fields(evaluation: dict, baselines: dict[str, float], labels: list[str]) -> dict:
    shares = torch.tensor(evaluation["shares"]).mean(0).tolist()
    return {
        "held_out": evaluation["held_out"],
        "best_single": min(baselines[label] for label in labels),
        "block_average": baselines["block average"],
        "shares": shares,
    }
