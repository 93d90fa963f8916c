"""The probe: its maths on experts of known structure, and the node on a real ComfyUI."""

import itertools
import json
import shutil

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.optimize import minimize

from afa_core.probe import measure as maths
from afa_core.probe.plot import probe_plot
from afa_core.probe.report import Probe, best_fixed_mix, report_of
from afa_core.probe.table import probe_table

LEVELS = (100, 500)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- least loss over mixes ----

grams = st.tuples(st.integers(1, 5), st.integers(0, 10**6)).map(
    lambda drawn: (lambda a: a @ a.T / 7)(normal(drawn[0], 7, seed=drawn[1]).double() + 0.7)
)


@given(grams)
def test_the_simplex_minimum_is_the_one_a_solver_finds(gram):
    weights = maths.simplex_minimum(gram)
    assert weights.min() >= 0 and weights.sum().item() == pytest.approx(1)
    found = minimize(
        lambda w: w @ gram.numpy() @ w,
        numpy.full(len(gram), 1 / len(gram)),
        jac=lambda w: 2 * gram.numpy() @ w,
        bounds=[(0, 1)] * len(gram),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert maths.quadratic(gram, weights).item() <= found.fun * (1 + 1e-6) + 1e-12


@given(grams)
def test_the_sum_one_minimum_cannot_be_improved(gram):
    weights = maths.sum_one_minimum(gram)
    least = maths.quadratic(gram, weights)
    for step in (1e-2, -1e-2):
        for i, j in itertools.permutations(range(len(gram)), 2):
            other = weights.clone()
            other[i] += step
            other[j] -= step
            assert maths.quadratic(gram, other) >= least * (1 - 1e-6)


def test_grams_are_solved_together_as_one_by_one():
    batch = torch.stack([(lambda a: a @ a.T)(normal(3, 5, seed=s).double()) for s in range(6)]).reshape(2, 3, 3, 3)
    together = maths.simplex_minimum(batch)
    for i, j in itertools.product(range(2), range(3)):
        torch.testing.assert_close(together[i, j], maths.simplex_minimum(batch[i, j]))


def test_the_same_expert_twice_has_equal_weights():
    gram = torch.full((2, 2), 0.3, dtype=torch.float64)
    assert maths.quadratic(gram, maths.simplex_minimum(gram)).item() == pytest.approx(0.3)
    torch.testing.assert_close(maths.sum_one_minimum(gram), torch.full((2,), 0.5, dtype=torch.float64))


def test_gram_and_diversity():
    errors = torch.stack([normal(4, 2, 8, 8, seed=0), normal(4, 2, 8, 8, seed=1)])
    errors = torch.cat([errors, 2 * errors[:1]])
    gram = maths.gram_of(errors)
    assert gram[0, 1].item() == pytest.approx((errors[0] * errors[1]).mean().item(), abs=1e-6)
    correlation = maths.diversity(gram)
    assert correlation[0, 2].item() == pytest.approx(1)
    assert abs(correlation[0, 1].item()) < 0.15
    assert correlation.diagonal().tolist() == pytest.approx([1, 1, 1])


# ---- experts of known structure ----


def halves(places=True, pictures=False, draws=8, seed=0, picture=0):
    """Errors [2, M, C, 16, 16] of two experts: one fails on the left and one on the right, the same or other halves for
    each noise; or each fails on every other picture."""
    shared = normal(draws, 4, 16, 16, seed=seed + 1000 * picture)
    scale = torch.ones(2, draws, 1, 16, 16)
    for m in range(draws):
        swap = places == "moving" and bool(normal(1, seed=seed + m + 77 * picture) > 0)
        if places:
            scale[0, m, :, :, :8] = 1.5 if not swap else 1.0
            scale[1, m, :, :, 8:] = 1.5 if not swap else 1.0
            if swap:
                scale[0, m, :, :, 8:] = 1.5
                scale[1, m, :, :, :8] = 1.5
        if pictures:
            scale[picture % 2, m] = 1.5
    own = torch.stack([normal(draws, 4, 16, 16, seed=seed + 1000 * picture + 1 + k) for k in range(2)])
    return scale * (shared + 0.05 * own)


def examined(count=12, domains=None, cosine=0.9, **structure):
    rows = [[halves(seed=s, picture=i, **structure) for s in range(len(LEVELS))] for i in range(count)]
    fixed = best_fixed_mix(torch.stack([torch.stack([maths.gram_of(e) for e in row]) for row in rows]))
    cells = [[maths.examine(errors, fixed) for errors in row] for row in rows]
    weights = torch.tensor([[1, cosine], [cosine, 1]])
    return report_of(Probe(["one", "two"], domains or [""] * count, LEVELS, 8, weights, cells))


def test_experts_for_different_places_are_worth_it():
    report = examined()
    assert report["verdict"] == "worth it" and report["sentence"].startswith("Worth it")
    # Following the right expert everywhere leaves 1.0025 of what the equal mix has: ((1 + 1.5) / 2)^2 = 1.5625.
    pick = report["routers"]["pick"]
    assert pick["gain"] == pytest.approx(1 - 1 / 1.5625, abs=0.02)
    assert pick["low"] <= pick["gain"] <= pick["high"]
    assert report["routers"]["picture"]["gain"] == pytest.approx(0, abs=0.02)  # no picture has a better expert
    assert report["fixed_mix"]["weights"] == pytest.approx([0.5, 0.5], abs=0.03)
    assert report["kappa"] > 0.9
    assert report["wins"] == pytest.approx([0.5, 0.5], abs=0.05)


def test_experts_whose_strengths_move_with_the_noise_are_not():
    report = examined(places="moving")
    assert report["verdict"] == "not worth it"
    assert report["kappa"] < 0.1 and report["gain"]["low"] < 0.01


def test_experts_for_different_pictures_are_worth_it_by_picture_and_by_domain():
    domains = ["even", "odd"] * 6
    report = examined(places=False, pictures=True, domains=domains)
    assert report["verdict"] == "worth it"
    for router in ("picture", "domain", "pick"):
        assert report["routers"][router]["gain"] == pytest.approx(1 - 1 / 1.5625, abs=0.02)
    assert [(row["domain"], row["best"]) for row in report["by_domain"]] == [("even", "two"), ("odd", "one")]
    assert report["kappa"] > 0.9
    unsorted = examined(places=False, pictures=True)
    assert "domain" not in unsorted["routers"] and unsorted["verdict"] == "worth it"


def test_experts_that_differ_by_chance_only_are_not_worth_training_but_worth_mixing():
    report = examined(places=False, pictures=False)
    assert report["verdict"] == "not worth it"
    assert report["gain"]["gain"] < 0.01 and abs(report["kappa"]) < 0.05
    assert "; a merge of 0.5" in report["sentence"]


def test_one_expert_that_is_better_everywhere_needs_no_router():
    rows = [[torch.stack([normal(8, 4, 16, 16, seed=i), 2 * normal(8, 4, 16, 16, seed=i)])] for i in range(6)]
    fixed = best_fixed_mix(torch.stack([torch.stack([maths.gram_of(e) for e in row]) for row in rows]))
    cells = [[maths.examine(errors, fixed) for errors in row] for row in rows]
    report = report_of(Probe(["good", "bad"], [""] * 6, (500,), 8, torch.eye(2), cells))
    assert report["verdict"] == "not worth it"
    assert report["fixed_mix"]["weights"] == pytest.approx([1, 0])
    assert report["best_single"]["expert"] == "good"
    assert report["sentence"].endswith("; good alone is as good as any merge.")


@pytest.mark.parametrize(
    ("noise", "cosine", "verdict"),
    [(0, 1, "the same model"), (0.01, 0.99999, "the same model"), (0.01, 0.99, "not worth it"), (0.5, 0.99999, "not worth it")],
)  # fmt: skip
def test_the_same_model_is_told_by_weights_and_predictions(noise, cosine, verdict):
    """Equal weights with other predictions are one checkpoint with a LoRA; equal predictions of other weights are alike."""
    cells = []
    for i in range(6):
        one = normal(4, 4, 16, 16, seed=i)
        errors = torch.stack([one, one + noise * normal(4, 4, 16, 16, seed=i + 50)])
        cells.append([maths.examine(errors, torch.tensor([0.5, 0.5]).double())])
    report = report_of(
        Probe(["a", "b"], [""] * 6, (500,), 4, torch.tensor([[1, cosine], [cosine, 1]], dtype=torch.float64), cells)
    )
    assert report["verdict"] == verdict
    if verdict == "the same model":
        assert report["same"] == [[0, 1]] and report["sentence"].startswith("The same model: b is a copy of a;")


def test_three_copies_are_named_once_each():
    errors = normal(4, 4, 16, 16)[None].expand(3, -1, -1, -1, -1)
    cells = [[maths.examine(errors, torch.full((3,), 1 / 3, dtype=torch.float64))] for _ in range(3)]
    report = report_of(Probe(["a", "b", "c"], [""] * 3, (500,), 4, torch.ones(3, 3), cells))
    assert report["sentence"].startswith("The same model: b is a copy of a and c is a copy of a;")


def test_one_noise_is_too_few():
    with pytest.raises(ValueError, match="2 noises or more"):
        maths.examine(halves(draws=1), torch.tensor([0.5, 0.5]).double())


def test_a_router_never_sees_the_noise_it_is_measured_on():
    """Pure noise has no structure: a router fitted to the noise it is measured on would gain, one fitted to other noise loses a little."""
    errors = torch.stack([normal(4, 1, 32, 32, seed=0), normal(4, 1, 32, 32, seed=1)])
    cell = maths.examine(errors, torch.tensor([0.5, 0.5]).double())
    assert cell.pick == pytest.approx(1, abs=0.08)
    assert cell.picture >= 0.5 * 0.95
    assert cell.mix[0].item() == pytest.approx(0.5, abs=0.05)
    assert (cell.mix[1:] >= cell.mix[0] * 0.999).all()


def test_the_mix_by_picture_is_not_fitted_to_the_noise_it_is_measured_on():
    """On few values a mix fitted to the values it is measured on beats the equal one; one fitted to others cannot."""
    equal = torch.full((4,), 0.25, dtype=torch.float64)
    losses = [maths.examine(normal(4, 2, 1, 2, 2, seed=seed), equal).picture for seed in range(300)]
    assert sum(losses) / 300 > 0.27


def test_the_interval_covers_the_truth():
    """Over many samples of pictures with a known gain, 95 % of the intervals should hold it."""
    hits = 0
    for seed in range(200):
        fixed = 1 + 0.3 * normal(24, seed=seed).abs().double()
        routed = fixed * (0.95 + 0.05 * normal(24, seed=seed + 1000).double())
        low, high = maths.interval(routed, fixed, seed)
        hits += low <= 0.05 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_a_picture_alone_in_its_domain_gets_the_others_mix():
    grams = torch.stack([torch.diag(torch.tensor(d)).double()[None] for d in ([1.0, 9.0], [1.0, 9.0], [9.0, 1.0])])
    losses = maths.domain_losses(grams, ["x", "x", "y"])[:, 0]
    own = maths.quadratic(grams[0, 0], maths.simplex_minimum(grams[0, 0]))
    assert losses[:2].tolist() == pytest.approx([own.item()] * 2)
    assert losses[2] > own * 3
    assert maths.domain_losses(grams[:1], ["x"]).shape == (1, 1)


def test_plot_table_and_json():
    report = json.loads(json.dumps(examined(count=4, domains=["a", "b"] * 2)))
    plot = probe_plot(report)
    assert plot.ndim == 4 and plot.shape[-1] == 3 and 0 <= plot.min() < plot.max() <= 1
    table = probe_table(report)
    assert table.splitlines()[0] == report["sentence"]
    assert "\n\nLoss by sub-folder:\n\n- a: " in table
    assert [row["timestep"] for row in report["by_level"]] == list(LEVELS)


# ---- the node ----


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
