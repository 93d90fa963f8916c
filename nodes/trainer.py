"""Training an aggregator inside ComfyUI."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..afa_core.aggregator.config import ABLATIONS, AggregatorConfig, ConfigError
from ..afa_core.atomic_file import check_writable
from ..afa_core.host.experts.experts import Expert, check_experts
from ..afa_core.host.experts.identity import described
from ..afa_core.host.files import aggregator_folder
from ..afa_core.host.out_of_memory import TRAINING, naming_what_ran
from ..afa_core.host.training.encoding import DatasetSettings, prepare_dataset, texts_of_prompt
from ..afa_core.host.training.frozen_experts import HostExperts, outside_inference
from ..afa_core.host.training.host_dataset import HostDataset
from ..afa_core.host.training.memory import aggregator_memory
from ..afa_core.host.training.preview import Preview
from ..afa_core.host.training.prompt_folders import prompt_folder_stamp, read_named_folder
from ..afa_core.training.data.prompt_folder import PromptFolder
from ..afa_core.training.report import loss_plot, report_text
from ..afa_core.training.session import Keeping, TrainingError, check_continues, fit
from ..afa_core.training.state import TrainingSettings
from ..afa_core.training.tasks.aggregator import AggregatorSettings, AggregatorTask, identity_of
from .kept import workflow_id
from .live import TrainingFeed
from .sockets import AggregatorType, experts, schema, source_file, source_loras
from .trainer_inputs import ABLATION_CHOICES, trainer_inputs
from .training import check_enough, check_held_out, file_name, listener, of_widgets, preparation, times_stopped


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
    def fingerprint_inputs(cls, prompt_folder: list[str], save_as: list[str | None], **inputs) -> str:
        return f"{prompt_folder_stamp(prompt_folder[0])} {times_stopped(save_as[0])}"

    @classmethod
    def execute(cls, latents=None, conditioning=None, **inputs) -> io.NodeOutput:
        # The host hands lists to every input, since those of its dataset nodes are lists.
        widgets = {name: values[0] for name, values in inputs.items()}
        models = experts(cls, {name: value for name, value in widgets.items() if name.startswith("model_")})
        check_experts(models)
        config = _config(models, widgets)
        path = aggregator_folder() / f"{file_name(widgets['save_as'])}.safetensors"
        check_writable(path.parent)
        settings, loss = of_widgets(TrainingSettings, widgets), of_widgets(AggregatorSettings, widgets)
        sources = [_source_of(cls, model) for model in models]
        labels, workflow = [model.label for model in models], workflow_id(cls.hidden.extra_pnginfo)
        feed = TrainingFeed(cls.hidden.unique_id, labels, settings.steps, workflow)
        try:
            source = _source(widgets, latents, conditioning)
            data = of_widgets(DatasetSettings, widgets)
            keeping = Keeping(path, widgets["resume"], widgets["save_every"], data.of_source(source))
            check_continues(keeping, {**settings.to_json(), **identity_of(config, loss, sources)})
            dataset = prepare_dataset(models, widgets["clip"], widgets["vae"], source, data, preparation(feed))
            check_held_out(dataset)
            size = dataset.largest_latent
            preview = _preview(models, widgets, size)
            with outside_inference(), naming_what_ran("Training", TRAINING):
                frozen = HostExperts(models, widgets["gradient_checkpointing"])
                task = AggregatorTask(frozen, config, sources, loss, settings.seed)
                shape = [settings.batch_size, *size]
                load = partial(frozen.load, shape, aggregator_memory(frozen, config, shape))
                load()
                listen = listener(feed, task, widgets, _painter(preview, frozen, task, load))
                file, state = fit(task, dataset, settings, keeping, listen)
            feed.finish(f"{state.finished}, saved as {path.name}")
        finally:
            feed.finish()
        report = f"{report_text(path.name, task, state)}\n\n{dataset.summary()}"
        return io.NodeOutput(file, loss_plot(task, state), report)


def _config(models: list[Expert], widgets: dict) -> AggregatorConfig:
    """Raises TrainingError where the widgets' sizes do not go together."""
    try:
        return AggregatorConfig(
            **models[0].aggregator_fields,
            num_experts=len(models),
            hidden_size=widgets["hidden_size"],
            num_layers=widgets["num_layers"],
            num_heads=widgets["num_heads"],
            ablations=tuple(name for name in ABLATIONS if ABLATION_CHOICES[name] == widgets["ablation"]),
            routing_stride=widgets["routing_stride"],
            identity_bias=widgets.get("identity_bias", False),  # an older workflow has no such widget
        )
    except ConfigError as error:
        raise TrainingError(f"{error}: change it.") from error


def _source(widgets: dict, latents: list | None, conditioning: list | None) -> PromptFolder | HostDataset:
    if bool(latents) != bool(conditioning):
        raise TrainingError(
            f"latents and conditioning belong together, found only {'latents' if latents else 'conditioning'}: connect both "
            "outputs of one Make Training Dataset node, or neither."
        )
    if latents and conditioning:
        return HostDataset(latents, conditioning)
    folder = read_named_folder(widgets["prompt_folder"])
    check_enough(folder)
    return folder


def _source_of(cls: type[io.ComfyNode], model: Expert) -> dict[str, Any]:
    socket = model.label.split(" ")[0]
    wire = cls.hidden.prompt or {}, cls.hidden.unique_id, socket
    return described(model, source_file(*wire) or socket, source_loras(*wire))


def _preview(models: list[Expert], widgets: dict, size: tuple[int, int, int]) -> Preview | None:
    prompt = widgets["sample_prompt"].strip()
    if not prompt:
        return None
    positive, negative = (texts_of_prompt(models, widgets["clip"], text, size[1:]) for text in (prompt, ""))
    return Preview(widgets["vae"], positive, negative, size, widgets["seed"])


def _painter(
    preview: Preview | None, frozen: HostExperts, task: AggregatorTask, load: Callable[[], None]
) -> Callable[[], Tensor] | None:
    if preview is None:
        return None

    def paint() -> Tensor:
        picture = preview.paint(frozen, task.fusion())
        load()  # decoding may have moved the experts out
        return picture

    return paint
