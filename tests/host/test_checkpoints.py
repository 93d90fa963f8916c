"""Checkpoints are known by their weights, and an ensemble's file finds its own."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from afa_core.aggregator.file import save_aggregator
from tests.support.ensembles import random_aggregator


@pytest.fixture
def digest(pack):
    from afa_core.host.experts.checkpoints import model_identity

    return lambda model: model_identity(model).digests[0]


@pytest.fixture
def file_digest(pack):
    from afa_core.host.experts.checkpoints import file_identity

    return lambda path: (found := file_identity(path)) and found.digests[0]


@pytest.fixture
def folder(comfy_host):
    """The checkpoint folder; what a test has put there is removed. Only new names: the others are links to shared files."""
    folder = comfy_host.base / "models" / "checkpoints"
    before = set(folder.rglob("*"))
    yield folder
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def lora_file(path, target, seed=0):
    """A LoRA of rank 2 on one layer."""
    up, down = (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for shape in ((target[1], 2), (2, target[2]))
    )
    save_file({f"{target[0]}.lora_up.weight": up, f"{target[0]}.lora_down.weight": down}, path)


UNET_LAYER = ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", 64, 64)


# ---- digests ----


@pytest.mark.parametrize("name", ["tiny_sd15_a", "tiny_sd2_a", "tiny_sdxl_a"])
def test_a_file_and_its_loaded_model_have_one_digest(checkpoint, digest, file_digest, folder, name):
    assert digest(checkpoint(name)[0]) == file_digest(folder / f"{name}.safetensors")


def test_every_checkpoint_has_its_own(folder, file_digest):
    names = ["tiny_sd15_a", "tiny_sd15_b", "tiny_sd15_c", "tiny_sd15_v", "tiny_sdxl_a", "tiny_sdxl_b"]
    assert len({file_digest(folder / f"{name}.safetensors") for name in names}) == len(names)


def test_a_lora_changes_nothing(comfy_host, checkpoint, digest):
    """Neither while it waits, nor while it is patched into the weights, nor afterwards."""
    import comfy.model_management as memory

    lora_file(comfy_host.base / "models" / "loras" / "unet.safetensors", UNET_LAYER)
    model, clip, _ = checkpoint("tiny_sd15_a")
    plain = digest(model)
    tuned = comfy_host.call("LoraLoader", model=model, clip=clip, lora_name="unet.safetensors")[0]
    assert tuned.patches
    assert digest(tuned) == plain
    with torch.inference_mode():
        memory.load_models_gpu([tuned])
        assert tuned.backup
        assert digest(tuned) == digest(model) == plain
        memory.unload_all_models()
    assert not tuned.backup
    assert digest(tuned) == plain


def test_precision_changes_nothing(checkpoint, digest, file_digest, folder):
    """A checkpoint in float32, and what its author has pruned to float16."""
    half = load_file(folder / "tiny_sd15_a.safetensors")
    noise = torch.Generator().manual_seed(0)
    full = {k: v.float() * (1 + 1e-4 * torch.randn(v.shape, generator=noise)) for k, v in half.items()}
    save_file(full, folder / "full.safetensors")
    save_file({key: value.half() for key, value in full.items()}, folder / "pruned.safetensors")
    expected = file_digest(folder / "full.safetensors")
    assert expected == file_digest(folder / "pruned.safetensors")
    assert expected == digest(checkpoint("full")[0]) == digest(checkpoint("pruned")[0])
    assert expected != file_digest(folder / "tiny_sd15_a.safetensors")


def test_the_widest_layer_of_sdxl_is_read(pack):
    """It has more weights than float32 counts in whole numbers."""
    from afa_core.host.experts.checkpoints import weights_digest

    widest = torch.zeros(1280, 2560, 3, 3, dtype=torch.float16)
    before = weights_digest(["widest"], lambda key: widest)
    widest.view(-1)[widest.numel() // 2] = 1
    assert weights_digest(["widest"], lambda key: widest) != before


@pytest.mark.parametrize("shape", [(), (0,), (1,), (15,), (17,)])
def test_the_smallest_tensors_are_read(pack, shape):
    from afa_core.host.experts.checkpoints import weights_digest

    assert len(weights_digest(["small"], lambda key: torch.ones(shape))) == 64


def test_what_is_no_checkpoint_has_no_digest(folder, file_digest):
    (folder / "no_checkpoint.safetensors").write_text("no checkpoint")
    whole = (folder / "tiny_sd15_a.safetensors").read_bytes()
    (folder / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    for name in ("no_checkpoint", "half", "gone"):
        assert file_digest(folder / f"{name}.safetensors") is None


# ---- finding ----


@pytest.fixture
def looked_at(monkeypatch, pack):
    """The names of the files whose weights were looked at."""
    from afa_core.host.experts import checkpoints

    seen, real = [], checkpoints.file_identity

    def watched(path):
        seen.append(path.name)
        return real(path)

    monkeypatch.setattr(checkpoints, "file_identity", watched)
    return seen


def test_the_file_of_the_right_name_is_looked_at_first(checkpoint, folder, digest, looked_at):
    from afa_core.host.experts.checkpoints import find_checkpoint

    model = checkpoint("tiny_sd15_c")[0]
    entry = {"file": "tiny_sd15_c.safetensors", "sha256": digest(model)}
    assert find_checkpoint(entry) == ("checkpoints", folder / "tiny_sd15_c.safetensors")
    assert looked_at == ["tiny_sd15_c.safetensors"]


def test_a_renamed_checkpoint_in_a_subfolder_is_found(folder, checkpoint, digest):
    from afa_core.host.experts.checkpoints import find_checkpoint

    (folder / "mine").mkdir()
    state = load_file(folder / "tiny_sd15_a.safetensors")
    state["model.diffusion_model.out.2.bias"] += 1
    save_file(state, folder / "mine" / "renamed.safetensors")
    (folder / "nowhere.safetensors").symlink_to("gone")  # must not stop the search
    wanted = digest(checkpoint("mine/renamed")[0])
    entry = {"file": "tiny_sd15_a.safetensors", "sha256": wanted}
    assert find_checkpoint(entry) == ("checkpoints", folder / "mine" / "renamed.safetensors")


def test_a_file_of_the_right_name_with_other_weights_is_not_taken(folder, checkpoint, digest):
    from afa_core.host.experts.checkpoints import find_checkpoint

    wanted = digest(checkpoint("tiny_sd15_a")[0])
    found = find_checkpoint({"file": "tiny_sd15_b.safetensors", "sha256": wanted})
    assert found == ("checkpoints", folder / "tiny_sd15_a.safetensors")
    assert find_checkpoint({"file": "tiny_sd15_a.safetensors", "sha256": "0" * 64}) is None


def test_a_file_that_was_written_again_is_looked_at_again(folder, file_digest):
    path = folder / "changing.safetensors"
    state = load_file(folder / "tiny_sd15_a.safetensors")
    save_file(state, path)
    before = file_digest(path)
    state["model.diffusion_model.out.2.bias"] += 1
    save_file(state, path)
    os.utime(path, ns=(1, 1))
    assert file_digest(path) != before


# ---- loading a whole ensemble ----


def test_an_ensemble_loaded_by_its_file_equals_the_wired_one(comfy_host, checkpoint, encode, sample, digest):
    names = ["tiny_sdxl_b", "tiny_sdxl_a"]
    loaded = [checkpoint(name) for name in names]
    aggregator = random_aggregator(loaded[0][0], 2)
    # The first by a name that it no longer has.
    aggregator.experts = [
        {"file": file, "sha256": digest(model)}
        for file, (model, _, _) in zip(["before.safetensors", "tiny_sdxl_a.safetensors"], loaded, strict=True)
    ]
    save_aggregator(aggregator, comfy_host.base / "models" / "afa" / "pair.safetensors")
    file = comfy_host.call("LoadAFAAggregator", aggregator_name="pair.safetensors")[0]
    model = comfy_host.call("AFAEnsembleModel", aggregator=file, model_1=loaded[0][0], model_2=loaded[1][0])[0]
    clip = comfy_host.call("AFAEnsembleCLIP", clip_1=loaded[0][1], clip_2=loaded[1][1])[0]
    wired = sample(model, encode(clip, "a cat"), encode(clip, ""))

    model, clip, vae, aggregator, routing = comfy_host.call("LoadAFAEnsemble", aggregator_name="pair.safetensors")
    found = sample(model, encode(clip, "a cat"), encode(clip, ""))
    assert torch.equal(found, wired)
    assert aggregator.state.keys() == file.state.keys()
    assert routing.run_of(found).experts == ["model_1 (tiny_sdxl_b.safetensors)", "model_2 (tiny_sdxl_a.safetensors)"]
    pixels = [comfy_host.call("VAEDecode", vae=v, samples={"samples": found})[0] for v in (vae, loaded[0][2])]
    assert torch.equal(*pixels)
