"""Students and teachers of every family, and of half precision, below the node: what is learnt is what the host loads."""

from dataclasses import replace

import pytest
import torch

from tests.pocket.scenes import checkpoints, datasets
from tests.support.ensembles import ensemble, training_free
from tests.support.transformers import conditioning, load

HALF = "trained experts in float16"
"""Random networks would make more of how the host rounds patched weights: up to 4e-3 of the prediction."""
SCENE = ("twemoji, mango, food fruit", "twemoji, runner, person activity")


class Case:
    """Models of one family, with texts and latents that their networks take: two toys, or two of the scenes' near experts."""

    def __init__(self, host, kind: str):
        self.host, self.kind = host, kind
        if kind == HALF:
            names = checkpoints.expert_names("near")[:2]
            checkpoints.ensure(host.base / "models" / "checkpoints", names)
            self.models = [half(host, name) for name in names]
            self.cond, self.extras, self.size = datasets.contexts([SCENE]), {}, (4, 8, 16)
        else:
            cases = [load(host, f"tiny_{kind}_{letter}") for letter in "ab"]
            self.models = [case.patcher for case in cases]
            ((self.cond, self.extras),) = conditioning(cases[0], 3)
            self.size = (16, 8, 6)

    def ensemble(self):
        return ensemble(self.host, training_free(self.host, "noise average", "3, 1"), *self.models)

    # ---- a store of training data ----

    def latent(self, item: int, variant: int):
        return torch.randn(self.size, generator=torch.Generator().manual_seed(item))

    def text(self, expert: int, item: int, empty: bool):
        from afa_core.host.experts.experts import Expert
        from afa_core.host.training.captions import for_network, network_text

        known = {name: value for name, value in self.extras.items() if torch.is_tensor(value)}
        with torch.inference_mode(False):
            model = Expert(self.models[expert], "model")
            text = network_text(model, *for_network(model, self.cond.clone(), known), self.size[1:])
        return {name: tensor for name, tensor in text.items() if tensor is not None}

    def data(self):
        from afa_core.training.data.dataset import BatchPlan, DatasetItem, LatentDataset

        items = [
            DatasetItem(f"{i}", f"{i}", "a caption", "all", 1, self.size[1:], 6, held_out=i < 2) for i in range(8)
        ]
        plan = BatchPlan(batch_size=2, caption_dropout=0.0, variants=2)
        return LatentDataset(items, self, 2, plan, source=self.kind)


def half(host, name: str):
    """A checkpoint with weights in float16, as files of most checkpoints are."""
    import comfy.sd

    path = host.base / "models" / "checkpoints" / f"{name}.safetensors"
    return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float16})


def predicted(student, batch):
    from afa_core.training.tasks.distil import alone

    with torch.no_grad():
        return student.predict(alone, batch.latents, student.sigma(torch.tensor([0.3, 0.8])), batch.texts[:1])


@pytest.mark.parametrize("kind", ["flux", "chroma", "lumina", "qwen", "cosmos", HALF])
def test_a_student_of_any_family_learns_and_is_loaded_by_the_host(comfy_host, pack, kind, tmp_path, monkeypatch):
    import comfy.model_management
    from safetensors.torch import load_file

    from afa_core.host.experts.experts import Expert
    from afa_core.host.training import cache
    from afa_core.host.training.adapters import with_lora
    from afa_core.host.training.distilling import Distillation, LoraSettings
    from afa_core.host.training.frozen_experts import HostExperts, outside_inference
    from afa_core.training.labels import LabelledDataset
    from afa_core.training.session import Keeping, fit
    from afa_core.training.state import TrainingSettings

    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "cache")
    case = Case(comfy_host, kind)
    distillation, data = Distillation(case.ensemble(), None), case.data()
    settings = TrainingSettings(steps=8, batch_size=2, learning_rate=1e-3, warmup_steps=1, evaluate_every=8)
    with outside_inference():
        labels = distillation.label(data, False, lambda *_: None)
        task = distillation.task(data, LoraSettings(rank=4, alpha=4.0))
        labelled = LabelledDataset(replace(data, experts=1), labels)
        _, state = fit(task, labelled, settings, Keeping(tmp_path / "lora.safetensors"), lambda report: None)
        silent = {name for name, adapter in task.module.items() if not adapter.lora_up.weight.any()}
        batch = data.batch_of([3, 4])
        expected = predicted(task.student, batch)
        comfy.model_management.unload_all_models()
        lora = load_file(tmp_path / "lora-last.safetensors")
        models = distillation.student, with_lora(distillation.student, lora)
        found = []
        for model in models:
            student = HostExperts([Expert(model, "model")])
            student.load([2, *case.size])
            found.append(predicted(student, batch))
            comfy.model_management.unload_all_models()
    assert len(state.losses) == 8
    if kind == "qwen":  # what the last block makes of the text goes nowhere
        silent = {name for name in silent if "transformer_blocks/4/" not in name}
    assert not silent
    start, stock = ((each - expected).norm() / expected.norm() for each in found)
    assert start > 3e-3 and stock < (1e-3 if kind == HALF else 2e-6)
