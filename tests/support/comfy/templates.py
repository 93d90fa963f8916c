"""The workflow templates as prompts: with other values, with one expert alone, with another aggregator."""

import copy
import json
from typing import Any

from .bootstrap import REPOSITORY
from .ui_to_api import ui_to_api

FOLDER = REPOSITORY / "workflows"
Prompt = dict[str, dict[str, Any]]


def template(name: str, object_info: dict[str, Any]) -> Prompt:
    """workflows/NAME.json in API format."""
    return ui_to_api(json.loads((FOLDER / f"{name}.json").read_text()), object_info)


def find(prompt: Prompt, kind: str) -> list[str]:
    """The ids of a kind's nodes, in the order of the workflow."""
    return [node_id for node_id, node in prompt.items() if node["class_type"] == kind]


def with_checkpoints(prompt: Prompt, names: list[str]) -> Prompt:
    """With these files in the loaders; loaders beyond them get the first ones again."""
    changed = copy.deepcopy(prompt)
    for i, node_id in enumerate(find(changed, "CheckpointLoaderSimple")):
        changed[node_id]["inputs"]["ckpt_name"] = names[i % len(names)]
    return changed


def with_values(prompt: Prompt, values: dict[str, dict[str, Any]]) -> Prompt:
    """With other values in every node of this title or kind: {"KSampler": {"steps": 2}}."""
    changed = copy.deepcopy(prompt)
    for node in changed.values():
        for name in (node["class_type"], node["_meta"]["title"]):
            node["inputs"].update(values.get(name, {}))
    return changed


def with_aggregator(prompt: Prompt, name: str) -> Prompt:
    """With Load AFA Aggregator in place of the training-free fusion, as the template's note says."""
    changed = copy.deepcopy(prompt)
    for node_id in find(changed, "AFATrainingFreeFusion"):
        changed[node_id].update(class_type="LoadAFAAggregator", inputs={"aggregator_name": name})
    return changed


def alone(prompt: Prompt, loader: str) -> Prompt:
    """One expert's own picture: its checkpoint in place of the ensemble, and what looks at the ensemble left out."""
    (ensemble,), clips = find(prompt, "AFAEnsembleModel"), find(prompt, "AFAEnsembleCLIP")
    rewired = {(ensemble, 0): [loader, 0], **{(clip, 0): [loader, 1] for clip in clips}}
    needed, queue = {}, find(prompt, "SaveImage")
    while queue:
        node_id = queue.pop()
        node = needed[node_id] = copy.deepcopy(prompt[node_id])
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                node["inputs"][name] = rewired.get(tuple(value), value)
                queue.append(node["inputs"][name][0])
    return needed
