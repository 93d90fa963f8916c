"""Distilling an ensemble into a LoRA inside ComfyUI."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
from comfy_api.latest import io
from safetensors.torch import load_file

from ..afa_core.atomic_file import check_writable
from ..afa_core.host.merging.saving import save_network
from ..afa_core.host.out_of_memory import TRAINING, naming_what_ran
from ..afa_core.host.training.adapters import with_lora
from ..afa_core.host.training.distilling import Distillation, LoraSettings, Sources
from ..afa_core.host.training.encoding import DatasetSettings
from ..afa_core.host.training.frozen_experts import outside_inference
from ..afa_core.host.training.prompt_folders import prompt_folder_stamp, read_named_folder
from ..afa_core.training.data.prompt_folder import PromptFolder
from ..afa_core.training.labels import HeldOutLabels, LabelledDataset
from ..afa_core.training.loop import Report
from ..afa_core.training.report import loss_plot, report_text
from ..afa_core.training.session import Keeping, TrainingError, check_continues, fit
from ..afa_core.training.state import TrainingSettings
from ..afa_core.training.tasks.distil import DistilTask, LoraFile
from .distil_inputs import distil_inputs
from .kept import workflow_id
from .live import TrainingFeed
from .sockets import schema
from .training import (
    check_enough,
    check_held_out,
    end_on_stop,
    file_name,
    listener,
    of_widgets,
    preparation,
    stops,
    times_stopped,
)


class AFADistill(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFADistill",
            display_name="Distil AFA Ensemble",
            description="Trains a LoRA with which one model predicts what your ensemble predicts, at the cost of one model.",
            search_aliases=["distill", "distillation", "ensemble to lora", "teacher student"],
            inputs=distil_inputs(),
            outputs=[
                io.Model.Output(display_name="model"),
                io.Image.Output(display_name="loss_plot"),
                io.String.Output(display_name="report"),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            not_idempotent=True,
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, save_as: str | None, prompt_folder: str | None = "", prompts: str | None = "", **inputs) -> str:
        stamps = (prompt_folder_stamp(text) for text in (prompt_folder, prompts))
        return " ".join([*stamps, str(times_stopped(save_as))])

    @classmethod
    def execute(cls, ensemble, clip, student=None, vae=None, **widgets) -> io.NodeOutput:
        distillation = Distillation(ensemble, student)
        sources = _sources(widgets)
        path = Path(folder_paths.get_folder_paths("loras")[0], f"{file_name(widgets['save_as'])}.safetensors")
        check_writable(path.parent)
        settings, lora = of_widgets(TrainingSettings, widgets), of_widgets(LoraSettings, widgets)
        data_settings = of_widgets(DatasetSettings, widgets)
        known = sources.known(data_settings)
        if not lora.online:
            known["labels_per_item"] = widgets["labels_per_item"]
        keeping = Keeping(path, widgets["resume"], widgets["save_every"], known)
        control = replace(keeping, path=path.with_stem(f"{path.stem}-control")) if widgets.get("control") else None
        check_continues(keeping, {**settings.to_json(), **distillation.identity(lora)})
        if control:
            check_continues(control, {**settings.to_json(), **distillation.identity(lora, control=True)})
        workflow = workflow_id(cls.hidden.extra_pnginfo)
        feed = TrainingFeed(cls.hidden.unique_id, [DistilTask.curves_title], settings.steps, workflow)
        progress = preparation(feed)
        try:
            data = distillation.dataset(clip, vae, sources, data_settings, progress)
            if not lora.online:
                data = replace(data, plan=replace(data.plan, variants=widgets["labels_per_item"]))
            check_held_out(data)
            with outside_inference(), naming_what_ran("Training", TRAINING):
                labels = distillation.label(data, lora.online, progress)
                task = distillation.task(data, lora)
                labelled = HeldOutLabels(data, labels) if lora.online else LabelledDataset(replace(data, experts=1), labels)
                listen = listener(feed, task, widgets)
                file, state = fit(task, labelled, settings, keeping, listen)
                notes = [_found(file), _cost(len(distillation.experts), labels.size)]
                if control and not feed.stop_requested:
                    comfy.model_management.unload_all_models()
                    control_task = distillation.task(data, lora, control=True)
                    control_file, control_state = fit(control_task, labelled, settings, control, _quietly(feed, widgets))
                    notes.insert(1, _of_control(control_file, control_state.best_loss(control_task.chosen_by)))
                elif control and state.finished != "stopped":
                    stops[widgets["save_as"]] += 1  # the next run trains the control
            student_file = save_network(distillation.student, f"{path.stem}_student") if widgets.get("save_student") else None
            feed.finish(f"{state.finished}, saved as {path.name}")
        finally:
            feed.finish()
        # Not as they lie in the file: Windows replaces none that a MODEL still reads from.
        weights = {key: tensor.clone() for key, tensor in load_file(path).items()}
        model = with_lora(distillation.student, weights)
        notes.append(_how_to_load(path, student_file, is_merge=student is None))
        report = "\n\n".join([report_text(path.name, task, state), "\n".join(notes), data.summary()])
        return io.NodeOutput(model, loss_plot(task, state), report)


def _sources(widgets: dict[str, Any]) -> Sources:
    def read(name: str) -> PromptFolder | None:
        return read_named_folder(widgets[name]) if widgets[name].strip() else None

    folder, prompts = read("prompt_folder"), read("prompts")
    if not (folder or prompts):
        raise TrainingError(
            "Neither prompt_folder nor prompts is given: type the name of a folder with pictures and captions, or of a text "
            "file with a prompt a line, in ComfyUI's input folder."
        )
    sources = Sources.of(folder, prompts, widgets["prompt_share"])
    check_enough(*filter(None, (sources.pictures, sources.prompts)))
    return sources


def _quietly(feed: TrainingFeed, widgets: dict[str, Any]):
    """The listener of a control: its losses are not those that the view on the node shows."""
    steps = widgets["steps"]

    def listen(report: Report) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        feed.send(step=steps, message=f"control: step {report.state.step} of {steps}")
        end_on_stop(feed, widgets["save_as"])

    return listen


def _found(lora: LoraFile) -> str:
    """What was closed of the gap."""
    if lora.measured["gap"] is None:
        return "On the held-out items the ensemble is not surely better than the student before training: there is no gap to close."
    return f"{_share(lora)} of the gap from the student before training to the ensemble is closed."


def _share(lora: LoraFile) -> str:
    share, low, high = lora.measured["gap"]
    return f"{share:.0%} (95 %: {low:.0%} to {high:.0%})"


def _of_control(lora: LoraFile, loss: float) -> str:
    gap = f", {_share(lora)} of the gap" if lora.measured["gap"] else ""
    return f"Control, the same LoRA trained on the data without the ensemble's labels: held-out loss {loss:.5f}{gap}."


def _cost(experts: int, label_bytes: int) -> str:
    return (
        f"A step of sampling evaluates 1 network instead of {experts}.\n"
        f"The labels take {label_bytes / 2**20:.0f} MiB in ComfyUI's user folder."
    )


def _how_to_load(lora: Path, student: Path | None, is_merge: bool) -> str:
    base = "AFA Merge Models of the same models with equal shares" if is_merge else "the student"
    if student:
        base = f"Load Diffusion Model with {student.name}"
    return f"To load it: {base}, then Load LoRA (Model) with {lora.name} at strength 1."
