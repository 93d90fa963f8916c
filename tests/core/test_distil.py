"""Labels in batches, and what is said of a distilled student."""

import pytest
import torch

from afa_core.training.labels import LOOKS, LabelledDataset, item_draws
from afa_core.training.tasks.distil import gap_closed, lora_tensors, per_item
from tests.support.toy_distil import kill, run
from tests.support.training_toys import toy_dataset


class Store:
    """Labels that are the noise of their draw, which makes them easy to recognise."""

    def __init__(self, data):
        self.data = data

    def labels(self, item):
        draw, _ = item_draws(self.data, item)
        return {"labels": draw.noise.half(), "single_0": 2 * draw.noise.half()}


@pytest.fixture
def labelled():
    from dataclasses import replace

    data = toy_dataset()
    data = replace(data, plan=replace(data.plan, variants=3, caption_dropout=0.5))
    return LabelledDataset(data, Store(data))


def test_a_batch_has_the_noise_that_its_labels_were_made_with(labelled):
    numbers = set()
    for step in range(12):
        batch = labelled.train_batch(step)
        torch.testing.assert_close(batch.labels, batch.draw.noise, rtol=2e-3, atol=2e-3)
        for place, item in enumerate(batch.items):
            draw, dropped = item_draws(labelled.data, item)
            (number,) = (draw.noise == batch.draw.noise[place]).flatten(1).all(1).nonzero().flatten().tolist()
            assert draw.levels[number] == batch.draw.levels[place] and dropped[number] == batch.dropped[place]
            numbers.add((item, number))
    assert len(numbers) > 15


def test_held_out_items_are_looked_at_with_several_draws(labelled):
    batches = list(labelled.held_out_batches(3))
    assert sorted(item for batch in batches for item in batch.items) == sorted([0, 1, 2, 3] * LOOKS)
    for batch in batches:
        torch.testing.assert_close(batch.singles[0], 2 * batch.labels)
        moved = batch.map(torch.Tensor.double)
        assert moved.draw.levels.dtype == moved.labels.dtype == moved.singles[0].dtype == torch.float64


def test_the_share_of_the_gap_has_an_interval_and_needs_a_gap():
    noise = 0.01 * torch.randn(60, generator=torch.Generator().manual_seed(0))
    start = 1 + torch.rand(60, generator=torch.Generator().manual_seed(1))
    share, low, high = gap_closed(start, start - 0.15 + noise, start - 0.2)
    assert share == pytest.approx(0.75, abs=0.02) and low < share < high and high - low < 0.1
    assert gap_closed(start, start - 0.1, start + noise) is None
    assert gap_closed(start[:1], start[:1] - 0.1, start[:1] - 0.2) is None


def test_looks_at_one_item_count_as_one():
    assert per_item(torch.tensor([1.0, 2.0, 3.0, 6.0]), [7, 4, 7, 4]).tolist() == [4.0, 2.0]


def test_a_lora_has_the_names_and_layouts_that_loaders_read():
    shapes = {"diffusion_model.a.b.weight": torch.Size([6, 4, 3, 3]), "diffusion_model.c.weight": torch.Size([6, 5])}
    sizes = {"a/b": (6, 36), "c": (6, 5)}
    weights = {}
    for name, (out, inner) in sizes.items():
        key = f"diffusion_model/{name}/weight"
        weights |= {f"{key}.lora_up.weight": torch.randn(out, 2), f"{key}.lora_down.weight": torch.randn(2, inner)}
        weights[f"{key}.alpha"] = torch.tensor(2.0)
    found = {key: tuple(tensor.shape) for key, tensor in lora_tensors(weights, shapes).items()}
    assert found == {
        "diffusion_model.a.b.lora_up.weight": (6, 2, 1, 1), "diffusion_model.a.b.lora_down.weight": (2, 4, 3, 3),
        "diffusion_model.a.b.alpha": (), "diffusion_model.c.lora_up.weight": (6, 2),
        "diffusion_model.c.lora_down.weight": (2, 5), "diffusion_model.c.alpha": (),
    }  # fmt: skip


def test_a_killed_distillation_goes_on_to_the_same_weights():
    """20 kills: python -m tests.support.toy_distil"""
    kill(3)


def test_the_best_weights_are_the_nearest_to_the_teacher(tmp_path):
    """Not those with the least denoising loss, which a student of these labels moves away from."""
    _, state = run(tmp_path, 40)
    distances = state.values("distance")
    best = min(range(len(distances)), key=distances.__getitem__)
    assert best > 0 and best != min(range(len(distances)), key=state.values("held_out").__getitem__)
    assert state.best_loss("distance") == state.values("held_out")[best]


def test_the_best_weights_of_a_control_are_those_with_the_least_denoising_loss(tmp_path):
    """Not the nearest to the teacher, from which it learns nothing."""
    lora, state = run(tmp_path, 40, data_only=True)
    losses, distances = state.values("held_out"), state.values("distance")
    assert losses.index(min(losses)) != distances.index(min(distances))
    assert lora.measured["losses"]["LoRA"] == pytest.approx(min(losses))


@pytest.mark.parametrize("name", ["toy.resume", "toy.safetensors"])
def test_a_file_that_cannot_be_written_is_told_and_does_not_hide_the_first_error(tmp_path, caplog, name):
    def fail(report):
        if not report.state.step:
            return
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).mkdir(exist_ok=True)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(tmp_path, 8, fail)
    assert f"{name} could not be saved" in caplog.text
