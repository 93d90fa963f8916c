"""The memory that training asks the host for: enough for what it keeps, and for everything that it keeps."""

import math

import pytest
import torch
from PIL import Image

from tests.support.ensembles import ensemble, random_aggregator
from tests.support.node_trainer import Trainer, twelve_pictures

SHAPE = [2, 4, 16, 16]


@pytest.fixture
def experts(pack, checkpoint):
    from afa_core.host.experts.experts import Expert

    with torch.inference_mode():
        return [Expert(checkpoint(name)[0], name) for name in ("tiny_sd15_a", "tiny_sd15_b")]


def config_for(frozen, layers: int = 2):
    from afa_core.aggregator.config import AggregatorConfig

    return AggregatorConfig("toy", tuple(p.channels for p in frozen.points), 2, 32, 256, 128, layers, 4)


@pytest.mark.parametrize("layers", [1, 3])
def test_an_aggregators_share_covers_what_its_backward_pass_keeps(experts, layers):
    from afa_core.fusion.fusion import Embeddings, FusionState
    from afa_core.host.training.frozen_experts import HostExperts, outside_inference
    from afa_core.host.training.memory import aggregator_memory, trained_bytes
    from afa_core.training.tasks.aggregator import AggregatorSettings, AggregatorTask

    frozen = HostExperts(experts)
    config = config_for(frozen, layers)
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with outside_inference():
        task = AggregatorTask(frozen, config, [], AggregatorSettings(), 0)
        weights = {weight.untyped_storage().data_ptr() for weight in task.module.parameters()}
        state = FusionState([Embeddings(torch.randn(2, 256), torch.randn(2, 77, 32)) for _ in experts])
        alive, fusion = [], task.fusion()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            for point in frozen.points:
                size = (2, point.channels, math.ceil(16 / point.stride), math.ceil(16 / point.stride))
                alive.append(fusion(point, [torch.randn(size, requires_grad=True) for _ in experts], state))
    measured = sum(size for address, size in kept.items() if address not in weights)
    count = sum(weight.numel() for weight in task.module.parameters())
    reserved = aggregator_memory(frozen, config, SHAPE) - count * trained_bytes(frozen)
    assert measured < reserved < 2 * measured, f"{reserved / measured:.2f} of what is kept"


def test_what_is_asked_for_grows_with_experts_and_with_what_is_trained(experts, monkeypatch):
    import comfy.model_management as memory

    from afa_core.host.training.frozen_experts import HostExperts, outside_inference
    from afa_core.host.training.memory import aggregator_memory

    asked = []
    monkeypatch.setattr(memory, "load_models_gpu", lambda models, memory_required: asked.append(memory_required))
    with outside_inference():
        for count, checkpointing in ((1, False), (2, False), (2, True)):
            HostExperts(experts[:count], checkpointing).load(SHAPE)
    one, two, saving = asked
    assert two == 2 * one and one < saving < two
    frozen = HostExperts(experts)
    few, many = (aggregator_memory(frozen, config_for(frozen, layers), SHAPE) for layers in (1, 2))
    weights = [sum(math.prod(s) for _, s in config_for(frozen, layers).shapes()) for layers in (1, 2)]
    assert many - few > 16 * (weights[1] - weights[0])


def test_a_training_asks_for_what_its_largest_pictures_need(comfy_host, pack, tmp_path, monkeypatch):
    """Whatever shape the first batch has."""
    from afa_core.host.training.frozen_experts import HostExperts

    asked = []
    load = HostExperts.load
    monkeypatch.setattr(HostExperts, "load", lambda self, shape, *rest: asked.append(shape) or load(self, shape, *rest))
    for picture in sorted(twelve_pictures(tmp_path).glob("*.png"))[2:]:
        Image.new("RGB", (48, 80), (20 * int(picture.stem), 0, 0)).save(picture)
    Trainer(comfy_host, tmp_path).run("largest", steps=1, resume="start anew")
    assert asked == [[2, 4, 8, 8]]


def test_a_teachers_aggregator_is_loaded_with_its_experts(comfy_host, experts, monkeypatch):
    """The host makes room by unloading whatever a call does not name."""
    import comfy.model_management as memory

    from afa_core.host.training.frozen_experts import outside_inference
    from afa_core.host.training.teacher import Teacher

    models = [expert.patcher for expert in experts]
    teacher = Teacher(ensemble(comfy_host, random_aggregator(models[0], 2), *models))
    named = []
    monkeypatch.setattr(memory, "load_models_gpu", lambda models, **_: named.append(list(models)))
    with outside_inference():
        teacher.load(SHAPE)
    assert len(teacher.companions) == 1
    assert [set(models) for models in named] == [set(teacher.patchers)]
