"""AFA Probe on a real ComfyUI."""

import json
import shutil

import numpy
import pytest
import torch
from PIL import Image

from afa_core.probe import measure as maths

LEVELS = (100, 500)


@pytest.fixture
def folder(tmp_path):
    """Six captioned pictures in two sub-folders, and a broken one."""
    for number in range(6):
        place = tmp_path / ("warm" if number % 2 else "cold")
        place.mkdir(exist_ok=True)
        noise = numpy.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=numpy.uint8)
        Image.fromarray(noise).resize((64, 64)).save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(f"picture {number}")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    (tmp_path / "broken.txt").write_text("nothing")
    return tmp_path


@pytest.fixture
def probed(pack, comfy_host, folder):
    """probed(models, clip, vae, **widgets) -> (report, verdict, plot)."""
    from afa_core.host.training.cache import cache_folder

    shutil.rmtree(cache_folder(), ignore_errors=True)

    def run(models, clip, vae, **widgets):
        sockets = {f"model_{i}": model for i, model in enumerate(models, start=1)}
        inputs = {"prompt_folder": str(folder), "resolution": 64, "pictures": 4, "noises": 2, **widgets}
        verdict, plot, report, _ = comfy_host.call("AFAProbe", clip=clip, vae=vae, **sockets, **inputs)
        assert plot.shape[0] == 1 and plot.shape[-1] == 3
        return json.loads(report), verdict, plot

    return run


@pytest.fixture
def two_levels(comfy_host):
    """A third of the work, where only what happens around it matters."""
    from afa_core.host import probing

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(probing, "LEVELS", LEVELS)
        yield


@pytest.mark.usefixtures("two_levels")
def test_the_probe_compares_toys(probed, checkpoint):
    (a, clip, vae), (b, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")
    report, verdict, _ = probed([a, b], clip, vae)
    assert report["pictures"] == 4 and report["noises"] == 2
    assert [row["domain"] for row in report["by_domain"]] == ["cold", "warm"]
    assert report["left_out"] == [["broken.png", "is broken or no picture"]]
    assert abs(report["weight_cosine"][0][1]) < 0.5
    assert report["same"] == [] and verdict.startswith(report["sentence"])
    again, _, _ = probed([a, b], clip, vae)
    assert again == report


@pytest.mark.usefixtures("two_levels")
def test_pictures_that_turn_out_broken_are_named(probed, checkpoint, folder):
    """Two thirds of each are there; where one is left, nothing can be compared."""
    for path in folder.glob("*/[0-3].png"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    (a, clip, vae), (b, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")
    report, _, _ = probed([a, b], clip, vae, pictures=6)
    assert report["pictures"] == 2 and len(report["left_out"]) == 5
    next(folder.glob("*/4.png")).unlink()
    with pytest.raises(ValueError, match="found one"):
        probed([a, b], clip, vae, pictures=6)


def test_the_probe_measures_the_error_of_the_hosts_own_denoising(probed, checkpoint, folder, monkeypatch, encode):
    """By hand: noise, KSampler's one Euler step to zero, and the eps error it leaves."""
    import comfy.sample
    import comfy.samplers

    from afa_core.host import probing

    (a, clip, vae), (b, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_v")
    stored = {}
    monkeypatch.setattr(
        probing, "write_safetensors", lambda errors, _, file, durable: stored.update({file.name: errors})
    )
    monkeypatch.setattr(probing, "_check_several", lambda items: None)
    with pytest.raises(FileNotFoundError):
        probed([a, b], clip, vae, pictures=1)
    from PIL import Image as Pictures

    caption, pixels = next(
        (file.with_suffix(".txt").read_text(), numpy.asarray(Pictures.open(file)))
        for file in [next(folder.rglob("[0-9].png")).parent.parent / _only_picture(folder)]
    )
    with torch.inference_mode():
        latent = a.model.process_latent_in(vae.encode(torch.from_numpy(pixels.copy()).float()[None] / 255))
        positive = encode(clip, caption)
        for index, model in enumerate((a, b)):
            for number, level in enumerate(maths.LEVELS):
                noise = torch.randn(2, *latent.shape[1:], generator=torch.Generator().manual_seed(number))
                sigma = a.model.model_sampling.sigma(torch.tensor([float(level)]))
                noisy = latent + sigma * noise
                samples = comfy.sample.sample_custom(
                    model, torch.zeros_like(noisy), 1.0, comfy.samplers.sampler_object("euler"),
                    torch.cat([sigma, torch.zeros(1)]), positive, positive,
                    model.model.process_latent_out(noisy), disable_pbar=True,
                )  # fmt: skip
                clean = model.model.process_latent_in(samples)
                expected = -(clean - latent) / sigma
                found = stored[f"0_{index}.safetensors"][f"{level}"].float()
                torch.testing.assert_close(found, expected.clone(), rtol=0.01, atol=0.01)


def _only_picture(folder):
    """The picture that a probe of one picture looks at."""
    from afa_core.training.data.prompt_folder import read_prompt_folder
    from afa_core.training.data.split import subset

    items = read_prompt_folder(folder).items
    (index,) = subset([item.content for item in items], [item.domain for item in items], 1)
    return items[index].name


def test_one_expert_twice_is_the_same_model(probed, checkpoint):
    (model, clip, vae), (again, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_a")
    for twin in (model, again, _with_noise(again, 1e-4)):
        report, verdict, _ = probed([model, twin], clip, vae, pictures=2)
        assert report["verdict"] == "the same model"
        assert verdict.startswith("The same model: model_2 is a copy of model_1;")


def _with_noise(patcher, scale):
    """A copy of a model with a little noise on every weight."""
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(0)
        for parameter in patcher.model.diffusion_model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return patcher


@pytest.mark.usefixtures("two_levels")
def test_one_checkpoint_with_a_lora_is_another_model(probed, checkpoint):
    """Both share one network, whose weights the host patches in place."""
    model, clip, vae = checkpoint("tiny_sd15_a")
    patched = model.clone()
    with torch.inference_mode():
        patches = {
            key: (0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)),)
            for key, weight in model.model.named_parameters()
            if key.endswith("to_v.weight")
        }
        assert patched.add_patches(patches, 1.0)
    report, _, _ = probed([model, patched], clip, vae, pictures=2)
    assert report["same"] == []
    assert report["losses"]["model_1"] != pytest.approx(report["losses"]["model_2"], rel=1e-3)


@pytest.mark.usefixtures("two_levels")
def test_loras_on_one_network_are_measured_in_one_load(probed, checkpoint, comfy_host, monkeypatch):
    """As on copies of the checkpoint, where the host merges them; an expert between them has a network of its own."""
    import comfy.model_management as memory

    from tests.support.small_files import make_lora

    models, (other, clip, vae) = [checkpoint("tiny_sd15_a")[0] for _ in range(3)], checkpoint("tiny_sd15_b")
    loras = [make_lora(comfy_host.base, models[0], name=f"probed_{seed}", seed=seed) for seed in range(2)]

    def patched(model, lora):
        return comfy_host.call("LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=1.0)[0]

    loads = []

    def load(patchers, *args, real=memory.load_models_gpu, **kwargs):
        loads.append(patchers)
        return real(patchers, *args, **kwargs)

    def measured(one, another):
        models = [patched(one, loras[0]), other, patched(another, loras[1])]
        probed(models, clip, vae, pictures=2)  # encodes the pictures
        loads.clear()
        monkeypatch.setattr(memory, "load_models_gpu", load)
        report, _, _ = probed(models, clip, vae, pictures=2)
        monkeypatch.undo()
        return report["losses"], [len(patchers) for patchers in loads]

    (found, shared), (expected, apart) = measured(models[0], models[0]), measured(*models[1:])
    assert found == pytest.approx(expected, rel=1e-3)
    assert found["model_1"] != pytest.approx(found["model_3"], rel=1e-2)
    assert shared == [3, 1] and apart == [1, 1, 1]


@pytest.mark.usefixtures("two_levels")
def test_the_probe_reads_every_experts_own_text(probed, checkpoint, comfy_host):
    (a, clip_a, vae), (b, clip_b, _) = checkpoint("tiny_sdxl_a"), checkpoint("tiny_sdxl_b")
    both = comfy_host.call("AFAEnsembleCLIP", clip_1=clip_a, clip_2=clip_b)[0]
    own, _, _ = probed([a, b], both, vae, pictures=2)
    shared, _, _ = probed([a, b], clip_a, vae, pictures=2)
    assert own["losses"]["model_1"] == pytest.approx(shared["losses"]["model_1"])
    assert own["losses"]["model_2"] != pytest.approx(shared["losses"]["model_2"], rel=1e-4)


@pytest.mark.usefixtures("two_levels")
def test_prompts_alone_are_painted_first(probed, checkpoint, folder):
    for file in folder.rglob("*.png"):
        file.unlink()
    (a, clip, vae), (b, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")
    report, _, _ = probed([a, b], clip, vae, pictures=2)
    assert report["pictures"] == 2  # one prompt, painted by both


@pytest.mark.usefixtures("two_levels")
def test_the_held_out_pictures_are_probed_where_a_list_names_some(probed, checkpoint, folder):
    (folder / "held_out.txt").write_text("picture 1\npicture 3\n")
    (a, clip, vae), (b, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")
    report, _, _ = probed([a, b], clip, vae)
    assert [(row["domain"], row["pictures"]) for row in report["by_domain"]] == [("warm", 2)]


@pytest.mark.usefixtures("two_levels")
def test_one_picture_is_too_few(probed, checkpoint, folder):
    """Neither as a list of what is held out, of which all is probed then, nor as a folder."""
    (folder / "held_out.txt").write_text("picture 1\n")
    (a, clip, vae), (b, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")
    assert sum(row["pictures"] for row in probed([a, b], clip, vae)[0]["by_domain"]) == 4
    (folder / "alone.txt").write_text("one prompt")
    with pytest.raises(ValueError, match="compares pictures or prompts, and found one: add more"):
        probed([a, b], clip, vae, prompt_folder=str(folder / "alone.txt"))


def test_a_broken_expert_is_named(probed, checkpoint):
    (a, clip, vae), (b, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")
    with torch.inference_mode():
        b.model.diffusion_model.out[2].weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"model_2 produced NaN .* at timestep 50"):
        probed([a, b], clip, vae)


def test_unlike_experts_are_refused_by_name(probed, checkpoint):
    (a, clip, vae), (b, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sdxl_b")
    with pytest.raises(ValueError, match="model_2 .* model_1 .* one architecture"):
        probed([a, b], clip, vae)


def test_a_probe_can_be_interrupted_and_leaves_nothing_behind(probed, checkpoint, monkeypatch):
    import comfy.model_management as memory
    import folder_paths

    from afa_core.host import probing

    (a, clip, vae), (b, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")
    seen = []

    def interrupt(expert, *args, real=probing.denoise):
        seen.append(expert)
        if len(seen) == 8:
            memory.interrupt_current_processing()
        return real(expert, *args)

    monkeypatch.setattr(probing, "denoise", interrupt)
    with pytest.raises(memory.InterruptProcessingException):
        probed([a, b], clip, vae)
    assert len(seen) == 8
    assert not list((probing.Path(folder_paths.get_temp_directory())).glob("afa_probe_*"))
    assert a.model.current_patcher is None
    memory.interrupt_current_processing(False)
    monkeypatch.undo()
    assert probed([a, b], clip, vae)[0]["pictures"] == 4


@pytest.mark.usefixtures("two_levels")
def test_one_expert_is_in_memory_at_a_time(probed, checkpoint, monkeypatch):
    import comfy.model_management as memory

    from afa_core.host import probing

    (a, clip, vae), (b, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")
    loaded = []

    def note(expert, *args, real=probing.denoise):
        loaded.append([entry.model.model is expert.patcher.model for entry in memory.current_loaded_models])
        return real(expert, *args)

    monkeypatch.setattr(probing, "denoise", note)
    probed([a, b], clip, vae)
    assert loaded and all(entries == [True] for entries in loaded)
