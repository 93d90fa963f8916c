"""An expert is its checkpoint, whatever precision it was loaded in, with the LoRAs that are on it."""

import itertools
import logging
import shutil
from importlib import import_module

import pytest
import torch
from safetensors.torch import load_file, save_file

from afa_core.aggregator.file import AggregatorError, load_aggregator, save_aggregator
from tests.support.ensembles import ensemble, random_aggregator
from tests.support.refusing import refused
from tests.support.stand_ins import lora

PRECISIONS = (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
NET = "model.diffusion_model."


@pytest.fixture
def models_folder(comfy_host):
    """The models folder; what a test has put there is removed."""
    folder = comfy_host.base / "models"
    before = set(folder.rglob("*"))
    yield folder
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):
        if not path.is_dir():  # the host goes on to list a folder that it has seen
            path.unlink()


@pytest.fixture
def loaded_as(models_folder, pack):
    """loaded_as(name, dtype) -> the MODEL of a checkpoint, as the host's options for precision load it."""
    import comfy.sd

    def load(name, dtype):
        path = str(models_folder / "checkpoints" / f"{name}.safetensors")
        options = {} if dtype is None else {"dtype": dtype}
        return comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=False, model_options=options)[
            0
        ]

    return load


def fine_tuned(folder, name: str, change: float, dtype=torch.float16) -> str:
    """A checkpoint whose weights are all another, by about this part of them."""
    noise = torch.Generator().manual_seed(1)
    state = load_file(folder / "checkpoints" / "tiny_sd15_a.safetensors")
    for key, tensor in state.items():
        state[key] = (tensor.float() * (1 + change * torch.randn(tensor.shape, generator=noise))).to(dtype)
    save_file(state, folder / "checkpoints" / f"{name}.safetensors")
    return name


# ---- precision ----


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
def test_one_checkpoint_in_every_precision_is_one_and_a_fine_tune_is_another(models_folder, loaded_as, stored):
    from afa_core.host.experts.checkpoints import file_identity, model_identity
    from afa_core.host.experts.sketch import Sketch

    names = [fine_tuned(models_folder, "before", 1e-4, stored), fine_tuned(models_folder, "after", 0.01, stored)]
    sketches = {name: [file_identity(models_folder / "checkpoints" / f"{name}.safetensors").sketch] for name in names}
    for name, dtype in itertools.product(names, PRECISIONS):
        sketch = model_identity(loaded_as(name, dtype)).sketch
        again = Sketch.parsed(str(sketch))
        assert again.precision == sketch.precision and torch.equal(again.values, sketch.values)
        sketches[name].append(sketch)
    for name in names:
        assert all(a.agrees(b) for a in sketches[name] for b in sketches[name])
    taken_for_one = [
        (a.precision, b.precision) for a in sketches["before"] for b in sketches["after"] if a.agrees(b) or b.agrees(a)
    ]
    # No value of one says enough of the other's: they are so coarse that a change of a hundredth fits between.
    assert set(taken_for_one) <= set(itertools.permutations(["float8_e4m3fn", "float8_e5m2"]))


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("entry", ["sketch", "digest of an older file"])
def test_a_checkpoint_is_found_whatever_precision_it_was_trained_in(models_folder, loaded_as, dtype, entry):
    from afa_core.host.experts.checkpoints import find_checkpoint
    from afa_core.host.experts.experts import Expert
    from afa_core.host.experts.identity import described

    fine_tuned(models_folder, "full", 1e-3, torch.float32)
    expert = described(Expert(loaded_as("full", dtype), "model_1"), "renamed.safetensors", [])
    if entry != "sketch":
        expert = {key: expert[key] for key in ("file", "sha256", "prediction")}
    assert find_checkpoint(expert) == ("checkpoints", models_folder / "checkpoints" / "full.safetensors")
    fine_tuned(models_folder, "full", 0.02, torch.float32)
    assert find_checkpoint(expert) is None


def test_an_aggregator_knows_its_experts_in_another_precision(comfy_host, loaded_as, caplog):
    from afa_core.host.experts.experts import Expert
    from afa_core.host.experts.identity import described

    names = ("tiny_sd15_a", "tiny_sd15_b")
    trained = [loaded_as(name, torch.float16) for name in names]
    aggregator = random_aggregator(trained[0], 2)
    aggregator.experts = [described(Expert(m, "x"), n, []) for m, n in zip(trained, names, strict=True)]
    connected = [loaded_as(name, torch.bfloat16) for name in names]
    with caplog.at_level(logging.WARNING):
        ensemble(comfy_host, aggregator, *connected)
    assert "AFA" not in caplog.text
    from afa_core.host.experts.experts import ExpertError

    assert "in another order" in refused(ExpertError, lambda: ensemble(comfy_host, aggregator, *connected[::-1]))


@pytest.mark.parametrize(
    "text", ["", "float16", "float16 ???", "float16 AAA=", "float32 AAAA", "int8 AAAA", "float16 "]
)
def test_a_strangers_sketch_is_of_nothing(pack, loaded_as, text):
    from afa_core.host.experts.checkpoints import model_identity

    assert not model_identity(loaded_as("tiny_sd15_a", None)).is_of({"sketch": text})


# ---- files of a network alone ----


def test_networks_without_a_text_encoder_are_found_and_loaded(comfy_host, models_folder, checkpoint, encode, sample):
    from afa_core.host.experts.experts import Expert
    from afa_core.host.experts.identity import described

    state = load_file(models_folder / "checkpoints" / "tiny_sd15_b.safetensors")
    alone = {key.removeprefix(NET): value + 0.01 for key, value in state.items() if key.startswith(NET)}
    (models_folder / "diffusion_models").mkdir(exist_ok=True)
    save_file(alone, models_folder / "diffusion_models" / "alone.safetensors")
    (a, clip, _) = checkpoint("tiny_sd15_a")
    b = comfy_host.call("UNETLoader", unet_name="alone.safetensors", weight_dtype="default")[0]
    aggregator = random_aggregator(a, 2)
    aggregator.experts = [described(Expert(b, "x"), "was.safetensors", []), described(Expert(a, "x"), "a", [])]
    save_aggregator(aggregator, models_folder / "afa" / "alone.safetensors")
    model, found_clip, vae, *_ = comfy_host.call("LoadAFAEnsemble", aggregator_name="alone.safetensors")
    wired = ensemble(comfy_host, load_aggregator(models_folder / "afa" / "alone.safetensors"), b, a)
    text = encode(clip, "a cat")
    assert vae is not None
    assert torch.equal(sample(model, *[encode(found_clip, "a cat")] * 2), sample(wired, text, text))


def test_networks_in_the_layout_of_diffusers_are_read(pack):
    """By names and shapes alone: the host knows the layout by the sizes of the released networks."""
    import comfy.utils

    from afa_core.host.experts.checkpoints import _names

    sdxl = {
        "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10,
    }  # fmt: skip
    names = comfy.utils.unet_to_diffusers(sdxl)
    names = {key: host for key, host in names.items() if not key.startswith("class_embedding")}
    shapes = {key: [1] for key in names} | {"conv_in.weight": [320, 4, 3, 3]}
    shapes |= {key: [1, 2048] for key in names if key.endswith("attn2.to_k.weight")}
    shapes |= {key: [1, 2816] for key in names if key.endswith("add_embedding.linear_1.weight")}

    class File:
        def keys(self):
            return list(shapes)

        def get_slice(self, key):
            return self.Slice(shapes[key])

        class Slice:
            def __init__(self, shape):
                self.get_shape = lambda: shape

    assert _names(File()) == {host: key for key, host in names.items()}


# ---- LoRAs ----


@pytest.fixture
def two_loras(comfy_host, pack, models_folder, checkpoint):
    """One checkpoint under two LoRAs, in an aggregator's file: (models, clip, path)."""
    from afa_core.host.experts.experts import Expert
    from afa_core.host.experts.identity import described

    source = models_folder / "checkpoints" / "tiny_sd15_a.safetensors"
    plain, clip, _ = checkpoint("tiny_sd15_a")
    models, entries = [], []
    for name, seed, strength in (("first.safetensors", 1, 0.8), ("second.safetensors", 2, -0.5)):
        save_file(lora(source, seed), models_folder / "loras" / name)
        widgets = {"lora_name": name, "strength_model": strength}
        model = comfy_host.call("LoraLoaderModelOnly", model=plain, **widgets)[0]
        models.append(model)
        row = {"file": name, "strength": strength, "strength_clip": 0.0}
        entries.append(described(Expert(model, "x"), source.name, [row]))
    aggregator = random_aggregator(plain, 2)
    aggregator.experts = entries
    save_aggregator(aggregator, models_folder / "afa" / "loras.safetensors")
    return models, clip, models_folder / "afa" / "loras.safetensors"


def test_one_checkpoint_with_two_loras_is_rebuilt(comfy_host, two_loras, encode, sample):
    models, clip, path = two_loras
    text = encode(clip, "a cat")
    wired = sample(ensemble(comfy_host, load_aggregator(path), *models), text, text)
    rebuilt = comfy_host.call("LoadAFAEnsemble", aggregator_name="loras.safetensors")[0]
    assert torch.equal(sample(rebuilt, text, text), wired)
    assert len({id(expert.patcher.model) for expert in rebuilt.get_attachment("afa").experts}) == 1
    same = ensemble(comfy_host, load_aggregator(path), models[0], models[0])
    assert not torch.equal(sample(same, text, text), wired)


def test_of_two_loras_of_one_name_the_one_at_the_same_place_is_loaded(comfy_host, models_folder, two_loras, encode, sample):
    models, clip, path = two_loras
    aggregator = load_aggregator(path)
    for entry, name in zip(aggregator.experts, ("first", "second"), strict=True):
        folder = models_folder / "loras" / name
        folder.mkdir()
        (models_folder / "loras" / f"{name}.safetensors").rename(folder / "style.safetensors")
        entry["loras"][0]["file"] = f"{name}\\style.safetensors"  # as it was saved on Windows
    save_aggregator(aggregator, path)
    text = encode(clip, "a cat")
    rebuilt = comfy_host.call("LoadAFAEnsemble", aggregator_name=path.name)[0]
    assert torch.equal(sample(rebuilt, text, text), sample(ensemble(comfy_host, aggregator, *models), text, text))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("gone", "there is no second.safetensors among your LoRAs: put that file into models/loras"),
        ("changed", "your files of these names hold other LoRAs"),
        ("unknown", "with tiny_sd15_a.safetensors with other patches as expert 2, which it cannot put on by itself"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_by_name(comfy_host, models_folder, two_loras, fault, sentence):
    _, _, path = two_loras
    second = models_folder / "loras" / "second.safetensors"
    if fault == "gone":
        second.unlink()
    elif fault == "changed":
        shutil.copy(models_folder / "loras" / "first.safetensors", second)
    else:
        aggregator = load_aggregator(path)
        aggregator.experts[1]["loras"] = []
        save_aggregator(aggregator, path)
    text = refused(AggregatorError, lambda: comfy_host.call("LoadAFAEnsemble", aggregator_name=path.name))
    assert text.startswith("loras.safetensors was trained with tiny_sd15_a.safetensors with ") and sentence in text


def test_connected_loras_are_compared_with_those_of_the_training(comfy_host, two_loras, caplog):
    from afa_core.host.experts.experts import ExpertError

    models, _, path = two_loras
    aggregator = load_aggregator(path)
    with caplog.at_level(logging.WARNING):
        ensemble(comfy_host, aggregator, *models)
    assert "AFA" not in caplog.text
    text = refused(ExpertError, lambda: ensemble(comfy_host, aggregator, *models[::-1]))
    assert "tiny_sd15_a.safetensors with first.safetensors at 0.8 to model_1" in text
    with caplog.at_level(logging.WARNING):
        ensemble(comfy_host, aggregator, models[0], models[0])
    (warning,) = [message for message in caplog.messages if message.startswith("AFA")]
    assert "model_2 has other LoRAs than loras.safetensors was trained with there" in warning
    assert "second.safetensors at -0.5" in warning


def test_loras_in_bypass_mode_are_part_of_an_experts_identity(comfy_host, two_loras):
    """Of these loaders the weights, the strength and the layers count, on hosts that have them."""
    if "LoraLoaderBypassModelOnly" not in comfy_host.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip("LoRA loaders in bypass mode need a newer ComfyUI")
    from afa_core.host.experts.fingerprint import patcher_digest, patches_digest

    (patched, _), _, _ = two_loras
    plain = comfy_host.call("CheckpointLoaderSimple", ckpt_name="tiny_sd15_a.safetensors")[0]

    def bypassed(name, strength, model=plain):
        inputs = {"model": model, "lora_name": name, "strength_model": strength}
        return comfy_host.call("LoraLoaderBypassModelOnly", **inputs)[0]

    different = [
        plain, patched, bypassed("first.safetensors", 0.8), bypassed("first.safetensors", 0.7), bypassed("second.safetensors", 0.8),
        bypassed("first.safetensors", 0.8, patched),
    ]  # fmt: skip
    for digest in (patches_digest, patcher_digest):
        assert len({digest(model) for model in different}) == len(different)
        assert digest(bypassed("first.safetensors", 0.8)) == digest(different[2])
    assert patches_digest(plain) == ""


def test_the_graph_names_the_loras_in_the_order_of_their_application(pack):
    sockets = import_module(pack.__name__ + ".nodes.sockets")
    graph = {
        "1": {"inputs": {"ckpt_name": "base.safetensors"}},
        "2": {"inputs": {"model": ["1", 0], "clip": ["1", 1], "lora_name": "a", "strength_model": 1, "strength_clip": 0.5}},
        "3": {"inputs": {"model": ["2", 0], "lora_name": "b", "strength_model": ["9", 0]}},
        "4": {"inputs": {"model": ["3", 0], "lora_name": "off", "strength_model": 0.0, "strength_clip": 0.0}},
        "5": {"inputs": {"model": ["4", 0], "lora_name": "c", "strength_model": -0.2}},
        "6": {"inputs": {"model_1": ["5", 0]}},
    }  # fmt: skip
    assert sockets.source_file(graph, "6", "model_1") == "base.safetensors"
    assert sockets.source_loras(graph, "6", "model_1") == [
        {"file": "a", "strength": 1, "strength_clip": 0.5},
        {"file": "c", "strength": -0.2, "strength_clip": 0.0},
    ]
