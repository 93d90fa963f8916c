"""Pictures and prompts encoded by a real ComfyUI, and kept on disk."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image

from afa_core.digests import seed_of
from afa_core.training.data.prompt_folder import PromptFolderError, read_prompt_folder
from afa_core.training.data.texts import repeated

CAPTIONS = ["a red cat", "a blue dog", "a green bird", "a small fish"]


@pytest.fixture
def encoding(comfy_host):
    """The module, with an empty cache."""
    from afa_core.host.training import cache, encoding

    shutil.rmtree(cache.cache_folder(), ignore_errors=True)
    return encoding


@pytest.fixture
def pictures(tmp_path):
    """Four captioned pictures of 64 x 64, one of another shape, one broken."""
    for number, caption in enumerate(CAPTIONS):
        folder = tmp_path / ("2_animals" if number % 2 else "rest")
        folder.mkdir(exist_ok=True)
        colour = tuple(60 * number + 10 * c for c in range(3))
        Image.new("RGB", (64, 64), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    Image.new("RGB", (128, 32), "red").save(tmp_path / "wide.png")
    (tmp_path / "wide.txt").write_text(CAPTIONS[0])
    sound = (tmp_path / "rest" / "0.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(sound[:-30])
    (tmp_path / "broken.txt").write_text("never seen")
    return tmp_path


def loaded(checkpoint, *names):
    """Experts, their ensemble CLIP and the first one's VAE."""
    from afa_core.host.experts.experts import Expert
    from afa_core.host.text.clip import ensemble_clip

    parts = [checkpoint(name) for name in names]
    clip = ensemble_clip([clip for _, clip, _ in parts], list(names))
    return [Expert(model, name) for (model, _, _), name in zip(parts, names, strict=True)], clip, parts[0][2]


def small(encoding, **settings):
    return encoding.DatasetSettings(**{"resolution": 64, "batch_size": 2, "caption_dropout": 0.0, **settings})


def forbidden(*args, **kwargs):
    raise AssertionError("was encoded again")


def loaded_by_host(host, path):
    """Newer hosts load pictures from their input folder only."""
    shutil.copy(path, host.base / "input")
    return host.call("LoadImage", image=path.name)[0]


def test_batches_hold_what_the_sampler_would_see(encoding, checkpoint, encode, comfy_host, pictures):
    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    reports = []
    dataset = encoding.prepare_dataset(
        experts, clip, vae, read_prompt_folder(pictures), small(encoding), lambda *news: reports.append(news)
    )
    assert dataset.skipped == [("broken.png", "is broken")]
    assert [item.name for item in dataset.items] == ["2_animals/1.png", "2_animals/3.png", "rest/0.png", "rest/2.png", "wide.png"]  # fmt: skip
    assert [item.repeats for item in dataset.items] == [2, 2, 1, 1, 1]
    assert {item.domain for item in dataset.items} == {"", "animals", "rest"}
    assert tuple(dict.fromkeys(what for _, _, what in reports)) == ("encoding prompts", "encoding pictures")

    batch = dataset.batch_of([0, 3])
    assert not batch.latents.is_inference() and batch.latents.dtype == torch.float32
    for place, item in enumerate(batch.items):
        pixels = loaded_by_host(comfy_host, pictures / dataset.items[item].name)
        latent = comfy_host.call("VAEEncode", pixels=pixels, vae=vae)[0]["samples"]
        expected = experts[0].patcher.model.process_latent_in(latent)
        torch.testing.assert_close(batch.latents[place], expected[0].clone(), rtol=1e-4, atol=1e-4)
        for expert, text in enumerate(batch.texts):
            assert text["y"] is None and not text["c_crossattn"].is_inference()
            cond = encode(clip.members()[expert], dataset.items[item].caption)[0][0]
            torch.testing.assert_close(text["c_crossattn"][place], cond[0].clone(), rtol=1e-5, atol=1e-5)
    assert not torch.equal(batch.texts[0]["c_crossattn"], batch.texts[1]["c_crossattn"])


def test_a_second_run_encodes_nothing(encoding, checkpoint, pictures, monkeypatch):
    folder = read_prompt_folder(pictures)
    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    first = encoding.prepare_dataset(experts, clip, vae, folder, small(encoding))
    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    monkeypatch.setattr(type(vae), "encode", forbidden)
    monkeypatch.setattr("comfy.sd.CLIP.encode_from_tokens_scheduled", forbidden)
    second = encoding.prepare_dataset(experts, clip, vae, folder, small(encoding))
    assert second.digest == first.digest
    for step in range(4):
        a, b = first.train_batch(step), second.train_batch(step)
        assert a.items == b.items and torch.equal(a.latents, b.latents)
        assert torch.equal(a.texts[1]["c_crossattn"], b.texts[1]["c_crossattn"])


def test_another_encoder_is_another_entry(encoding, checkpoint, pictures):
    """What was made with a LoRA on the CLIP, or with clip skip, must not find the old entries."""
    from afa_core.host.experts.fingerprint import clip_digest, patcher_digest

    model, clip, _ = checkpoint("tiny_sd15_a")
    key = next(key for key in clip.get_sd() if key.endswith("fc1.weight"))
    patched = clip.clone()
    key = next(key for key, _ in clip.patcher.model.named_parameters() if key.endswith("fc1.weight"))
    with torch.inference_mode():
        patched.add_patches({key: (torch.ones(1, 1),)}, 0.5)
    stronger = clip.clone()
    with torch.inference_mode():
        stronger.add_patches({key: (torch.ones(1, 1),)}, 0.75)
    skipping = clip.clone()
    skipping.clip_layer(-2)
    again = checkpoint("tiny_sd15_a")
    digests = [clip_digest(c) for c in (clip, patched, stronger, skipping)]
    assert len(set(digests)) == 4
    assert clip_digest(again[1]) == digests[0]
    assert patcher_digest(again[0]) == patcher_digest(model)
    assert patcher_digest(checkpoint("tiny_sd15_b")[0]) != patcher_digest(model)


def test_a_caption_depends_on_the_embeddings_that_it_names(encoding, checkpoint, tmp_path, monkeypatch):
    import folder_paths

    from afa_core.host.training.cache import Cache
    from afa_core.host.training.captions import TextEncoder

    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {
        **folder_paths.folder_names_and_paths, "embeddings": ([str(tmp_path)], folder_paths.supported_pt_extensions),
    })  # fmt: skip
    experts, clip, _ = loaded(checkpoint, "tiny_sd15_a")
    encoder = TextEncoder(experts, clip, Cache())
    captions = "a cat", "a cat, (embedding:style:1.2)"
    names = [[encoder.name(0, caption) for caption in captions]]
    for content in (b"one", b"another"):
        (tmp_path / "style.pt").write_bytes(content)
        names.append([encoder.name(0, caption) for caption in captions])
    plain, styled = zip(*names, strict=True)
    assert len(set(plain)) == 1 and len(set(styled)) == 3


def test_pictures_are_encoded_again_by_another_vae(encoding, checkpoint, pictures, monkeypatch):
    from afa_core.host.experts.fingerprint import vae_digest

    folder = read_prompt_folder(pictures)
    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    other = checkpoint("tiny_sd15_a")[2]
    with torch.inference_mode():
        next(other.first_stage_model.parameters()).view(-1)[0] += 0.5
    assert vae_digest(other) != vae_digest(vae)
    first = encoding.prepare_dataset(experts, clip, vae, folder, small(encoding))
    encoded, real = [], type(vae).encode
    monkeypatch.setattr(type(vae), "encode", lambda own, pixels: encoded.append(own) or real(own, pixels))
    second = encoding.prepare_dataset(experts, clip, other, folder, small(encoding))
    assert len(encoded) == len(second.items) and {id(own) for own in encoded} == {id(other)}
    assert second.digest != first.digest


def test_another_sampling_or_an_object_as_a_patch_is_another_digest(encoding, checkpoint, comfy_host):
    """What a sampling predicts is in its base classes alone; a hypernetwork's patch is an object with a strength."""
    from afa_core.host.experts.fingerprint import patcher_digest

    model, _, _ = checkpoint("tiny_sd15_a")

    class Patch:
        def __init__(self, strength):
            self.strength = strength

        def __call__(self, q, k, v, extra_options):
            return q, k, v

    def patched(strength):
        clone = model.clone()
        clone.set_model_attn2_patch(Patch(strength))
        return clone

    def sampling(kind):
        return comfy_host.call("ModelSamplingDiscrete", model=model, sampling=kind, zsnr=False)[0]

    different = [model, *map(sampling, ("eps", "v_prediction", "x0")), patched(0.5), patched(1.0)]
    assert len({patcher_digest(each) for each in different}) == len(different)
    assert patcher_digest(sampling("eps")) == patcher_digest(different[1]) and patcher_digest(patched(0.5)) == patcher_digest(different[4])


class Holder:
    """A patch as those of packs for IP-Adapters: what it does lies deep inside; and it leads back to itself."""

    def __init__(self, strength):
        self.kwargs, self.again = [{"weight": [{"strength": strength}]}], self.run

    def __call__(self, q, k, v, extra_options):
        return q

    def run(self, q, k, v, extra_options, strength=None):
        return q, k, v


@pytest.mark.parametrize(
    "put",
    [
        lambda model, strength: model.set_model_attn2_replace(Holder(strength), "input", 1, 0),
        lambda model, strength: model.set_model_attn2_patch(partial(Holder.run, None, strength=strength)),
        lambda model, strength: model.set_model_attn2_patch(Holder(strength).run),
    ],
    ids=["deep inside", "partial", "bound method"],
)
def test_whatever_holds_a_number_of_a_patch_it_counts(encoding, checkpoint, put):
    from afa_core.host.experts.fingerprint import patcher_digest

    model, _, _ = checkpoint("tiny_sd15_a")

    def digest(strength):
        clone = model.clone()
        put(clone, strength)
        return patcher_digest(clone)

    assert digest(0.5) == digest(0.5) != digest(1.0)


def test_hooks_count_in_their_order_and_not_by_their_addresses(encoding, checkpoint):
    from comfy.hooks import _HookRef

    from afa_core.host.experts.fingerprint import clip_digest

    _, clip, _ = checkpoint("tiny_sd15_a")
    hooks = [_HookRef(), _HookRef()]

    def digest(hooks, strengths):
        clip.patcher.hook_patches = {hook: {"key": [(n, None)]} for hook, n in zip(hooks, strengths, strict=True)}
        return clip_digest(clip)

    assert digest(hooks, (0.5, 1.0)) == digest(hooks[::-1], (0.5, 1.0)) != digest(hooks, (1.0, 0.5))


def test_a_digest_does_not_depend_on_what_is_loaded(encoding, checkpoint, encode):
    """The host patches weights in place: the digest must be that of the weights and the patches, always."""
    from afa_core.host.experts.fingerprint import clip_digest

    _, clip, _ = checkpoint("tiny_sd15_a")
    key = next(key for key, _ in clip.patcher.model.named_parameters() if key.endswith("fc1.weight"))
    with torch.inference_mode():
        clip.add_patches({key: (torch.ones(1, 1),)}, 0.5)
    before = clip_digest(clip)
    encode(clip, "a cat")
    assert clip_digest(clip) == before


def test_sdxl_reads_sizes_and_pooled_texts(encoding, checkpoint, pictures):
    experts, clip, vae = loaded(checkpoint, "tiny_sdxl_a", "tiny_sdxl_b")
    dataset = encoding.prepare_dataset(experts, clip, vae, read_prompt_folder(pictures), small(encoding))
    square, wide = dataset.batch_of([2]), dataset.batch_of([4])
    assert dataset.items[2].caption == dataset.items[4].caption
    assert square.texts[0]["y"].shape == (1, experts[0].patcher.model.model_config.unet_config["adm_in_channels"])
    assert torch.equal(square.texts[0]["c_crossattn"], wide.texts[0]["c_crossattn"])
    assert not torch.equal(square.texts[0]["y"], wide.texts[0]["y"])  # the size is part of it
    with torch.inference_mode():
        cond, extras = clip.encode_from_tokens_scheduled(clip.tokenize(CAPTIONS[0]))[0]
        expected = experts[0].patcher.model.extra_conds(
            cross_attn=cond, pooled_output=extras["pooled_output"], device="cpu", noise=square.latents, width=64, height=64
        )["y"].cond  # fmt: skip
    torch.testing.assert_close(square.texts[0]["y"], expected.clone(), rtol=1e-5, atol=1e-5)


def test_dropped_captions_read_as_the_empty_prompt(encoding, checkpoint, pictures):
    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    folder = read_prompt_folder(pictures)
    dataset = encoding.prepare_dataset(experts, clip, vae, folder, small(encoding, caption_dropout=0.5))
    empty = encoding.texts_of_prompt(experts, clip, "", (8, 8))
    seen = set()
    for step in range(12):
        batch = dataset.train_batch(step)
        for place, dropped in enumerate(batch.dropped.tolist()):
            seen.add(dropped)
            for text, nothing in zip(batch.texts, empty, strict=True):
                assert torch.equal(text["c_crossattn"][place], nothing["c_crossattn"][0]) == dropped
    assert seen == {True, False}


def test_long_captions_are_batched_with_their_like(encoding, checkpoint, pictures):
    (pictures / "rest" / "0.txt").write_text("cat " * 100)
    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    folder = read_prompt_folder(pictures)
    dataset = encoding.prepare_dataset(experts, clip, vae, folder, small(encoding, caption_dropout=0.5))
    assert {item.name: item.length for item in dataset.items}["rest/0.png"] == 154
    for step in range(10):
        batch = dataset.train_batch(step)
        lengths = {dataset.items[item].length for item in batch.items}
        assert {text["c_crossattn"].shape[1] for text in repeated(batch.texts)} <= {max(lengths), 77}
        assert len(lengths) == 1


def test_augmented_variants_are_encoded_beside_the_plain_one(encoding, checkpoint, pictures):
    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    folder = read_prompt_folder(pictures)
    plain = encoding.prepare_dataset(experts, clip, vae, folder, small(encoding))
    varied = encoding.prepare_dataset(experts, clip, vae, folder, small(encoding, colour=1.0, variants=3))
    assert torch.equal(plain.batch_of([0]).latents, varied.batch_of([0]).latents)
    latents = [varied.store.latent(0, variant) for variant in range(3)]
    assert not torch.equal(latents[0], latents[1]) and not torch.equal(latents[1], latents[2])
    assert plain.digest != varied.digest


# ---- prompts only ----


def test_prompts_only_are_painted_by_every_expert_as_ksampler_does(
    encoding, checkpoint, encode, sample, tmp_path, monkeypatch
):
    (tmp_path / "prompts.txt").write_text("a red cat\na blue dog\n")
    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    settings = small(encoding, paint_steps=2)
    dataset = encoding.prepare_dataset(experts, clip, vae, read_prompt_folder(tmp_path), settings)
    assert [item.painter for item in dataset.items] == [0, 0, 1, 1]
    from afa_core.host.training import painting

    positive, negative = (encode(clip.members()[1], text) for text in ("a blue dog", ""))
    by_hand = sample(experts[1].patcher, positive, negative, seed=seed_of("a blue dog"))
    expected = experts[1].patcher.model.process_latent_in(by_hand)
    torch.testing.assert_close(dataset.batch_of([3]).latents, expected.clone(), rtol=1e-4, atol=1e-4)

    monkeypatch.setattr(painting, "painted", forbidden)
    again = encoding.prepare_dataset(experts, clip, vae, read_prompt_folder(tmp_path), settings)
    assert again.digest == dataset.digest
    flipped = small(encoding, paint_steps=2, flip=True)
    dataset = encoding.prepare_dataset(experts, clip, vae, read_prompt_folder(tmp_path), flipped)
    assert torch.equal(dataset.batch_of([3]).latents, again.batch_of([3]).latents) and dataset.train_batch(0).items
    with pytest.raises(AssertionError, match="encoded again"):
        other = small(encoding, paint_steps=3)
        encoding.prepare_dataset(experts, clip, vae, read_prompt_folder(tmp_path), other)


def test_an_expert_of_few_steps_paints_prompts_without_guidance(encoding, checkpoint, encode, sample, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red cat\na blue dog\n")
    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    experts[1] = replace(experts[1], label="model_2 (sd15_turbo)")
    dataset = encoding.prepare_dataset(experts, clip, vae, read_prompt_folder(tmp_path), small(encoding, paint_steps=2))
    positive, negative = (encode(clip.members()[1], text) for text in ("a blue dog", ""))
    by_hand = sample(experts[1].patcher, positive, negative, cfg=1.0, seed=seed_of("a blue dog"))
    expected = experts[1].patcher.model.process_latent_in(by_hand)
    torch.testing.assert_close(dataset.batch_of([3]).latents, expected.clone(), rtol=1e-4, atol=1e-4)


# ---- the host's own dataset nodes ----


def test_the_hosts_own_training_dataset_takes_the_place_of_a_folder(encoding, checkpoint, comfy_host, pictures):
    experts, clip, vae = loaded(checkpoint, "tiny_sdxl_a", "tiny_sdxl_b")
    folder = read_prompt_folder(pictures)
    own = encoding.prepare_dataset(experts, clip, vae, folder, small(encoding))
    names = [item.name for item in own.items]
    images = [loaded_by_host(comfy_host, pictures / name) for name in names[:4]]
    captions = [item.caption for item in own.items[:4]]
    made = comfy_host.call("MakeTrainingDataset", images=images, vae=[vae], clip=[clip], texts=captions)
    theirs = encoding.prepare_dataset(experts, clip, None, encoding.HostDataset(*made), small(encoding))
    for index in range(4):
        a, b = own.batch_of([index]), theirs.batch_of([index])
        torch.testing.assert_close(a.latents, b.latents, rtol=1e-4, atol=1e-4)
        for text, other in zip(a.texts, b.texts, strict=True):
            assert torch.equal(text["c_crossattn"], other["c_crossattn"])
            assert torch.equal(text["y"], other["y"])
    assert not theirs.train_batch(0).latents.is_inference()

    # As ResolutionBucket hands them on: all pictures of a shape in one latent, with a list of their conditionings.
    latents, conditioning = made
    bucket = {"samples": torch.cat([latent["samples"] for latent in latents])}
    bucketed = encoding.HostDataset([bucket], [conditioning])
    same = encoding.prepare_dataset(experts, clip, None, bucketed, small(encoding))
    assert same.digest == theirs.digest
    assert torch.equal(same.train_batch(3).texts[1]["y"], theirs.train_batch(3).texts[1]["y"])
    from afa_core.host.experts.experts import ExpertError

    with pytest.raises(ExpertError, match="4 latents and 3 conditionings in one bucket"):
        short = encoding.HostDataset([bucket], [conditioning[:3]])
        encoding.prepare_dataset(experts, clip, None, short, small(encoding))


def test_sizes_on_the_hosts_conditionings_are_trained_on(encoding, checkpoint, comfy_host):
    """As CLIPTextEncodeSDXL puts them there; also beside an empty caption."""
    experts, clip, _ = loaded(checkpoint, "tiny_sdxl_a", "tiny_sdxl_b")
    sizes = {"width": 1024, "height": 512, "crop_w": 8, "crop_h": 16, "target_width": 640, "target_height": 320}
    (text,) = comfy_host.call("CLIPTextEncodeSDXL", clip=clip, text_g="a cat", text_l="a hat", **sizes)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    source = encoding.HostDataset([latent], [text])
    dataset = encoding.prepare_dataset(experts, clip, None, source, small(encoding, caption_dropout=1.0))
    noise = latent["samples"]
    for batch, pooled in ((dataset.batch_of([0]), text[0][1]["pooled_output"]), (dataset.train_batch(0), None)):
        with torch.inference_mode():
            if pooled is None:
                pooled = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0][1]["pooled_output"]
            expected = experts[0].patcher.model.extra_conds(pooled_output=pooled, device="cpu", noise=noise, **sizes)["y"].cond
        torch.testing.assert_close(batch.texts[0]["y"][:1], expected.clone(), rtol=1e-5, atol=1e-5)
    plain = [[text[0][0], {"pooled_output": text[0][1]["pooled_output"]}]]
    other = encoding.prepare_dataset(experts, clip, None, encoding.HostDataset([latent], [plain]), small(encoding))
    assert other.source != dataset.source


# ---- what does not fit ----


def test_parts_that_do_not_fit_are_named(encoding, checkpoint, pictures, comfy_host):
    from afa_core.host.experts.experts import ExpertError

    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    folder = read_prompt_folder(pictures)
    with pytest.raises(ExpertError, match="No CLIP is connected"):
        encoding.prepare_dataset(experts, None, vae, folder, small(encoding))
    with pytest.raises(ExpertError, match="No VAE is connected"):
        encoding.prepare_dataset(experts, clip, None, folder, small(encoding))
    with pytest.raises(ExpertError, match="carries 2 text encoders, and 3 models"):
        encoding.prepare_dataset([*experts, experts[0]], clip, vae, folder, small(encoding))
    foreign = checkpoint("tiny_sdxl_a")[1]
    with pytest.raises(ExpertError, match="connect the CLIP of its own checkpoint"):
        encoding.prepare_dataset(experts, foreign, vae, folder, small(encoding))
    with pytest.raises(ExpertError, match="1 latents and 0 conditionings"):
        encoding.prepare_dataset(experts, clip, vae, encoding.HostDataset([{}], []), small(encoding))
    text = [[torch.zeros(1, 77, 32), {}]]
    sound, flux = ({"samples": torch.zeros(1, channels, 8, 8)} for channels in (4, 16))
    with pytest.raises(ExpertError, match="Dropping captions needs the empty prompt, and no CLIP is connected"):
        dropping = small(encoding, caption_dropout=0.1)
        encoding.prepare_dataset(experts, None, None, encoding.HostDataset([sound], [text]), dropping)
    with pytest.raises(ExpertError, match=r"The latents have the shape \[1, 16, 8, 8\], and tiny_sd15_a takes 4 channels"):
        encoding.prepare_dataset(experts, clip, None, encoding.HostDataset([flux], [text]), small(encoding))
    broken = {"samples": torch.full((1, 4, 8, 8), torch.nan)}
    with pytest.raises(ExpertError, match="Latent 2 holds NaN or infinite values: start ComfyUI with --fp32-vae"):
        encoding.prepare_dataset(experts, clip, None, encoding.HostDataset([sound, broken], [text, text]), small(encoding))


def test_a_folder_of_broken_pictures_says_so(encoding, checkpoint, tmp_path, pictures):
    for file in pictures.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:-30])
    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    with pytest.raises(PromptFolderError, match="None of the 6 pictures can be used"):
        encoding.prepare_dataset(experts, clip, vae, read_prompt_folder(pictures), small(encoding))


def test_an_interruption_keeps_what_was_encoded(encoding, checkpoint, pictures, monkeypatch):
    import comfy.model_management as memory

    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    folder = read_prompt_folder(pictures)

    def interrupt_at_second(done, total, what):
        if done == 2 and what == "encoding pictures":
            memory.interrupt_current_processing()

    with pytest.raises(memory.InterruptProcessingException):
        encoding.prepare_dataset(experts, clip, vae, folder, small(encoding), interrupt_at_second)
    encoded, real = [], vae.encode
    monkeypatch.setattr(vae, "encode", lambda pixels: encoded.append(pixels) or real(pixels))
    encoding.prepare_dataset(experts, clip, vae, folder, small(encoding))
    assert 0 < len(encoded) < 5


def test_a_damaged_entry_is_made_again(encoding, checkpoint, pictures):
    from afa_core.host.training.cache import cache_folder

    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    folder = read_prompt_folder(pictures)
    first = encoding.prepare_dataset(experts, clip, vae, folder, small(encoding))
    for file in cache_folder().rglob("*.safetensors"):
        file.write_bytes(b"half")
    second = encoding.prepare_dataset(experts, clip, vae, folder, small(encoding))
    assert torch.equal(first.train_batch(0).latents, second.train_batch(0).latents)


def test_an_entry_that_is_deleted_while_it_is_in_use_is_named(encoding, checkpoint, pictures):
    from afa_core.host.training.cache import cache_folder

    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    dataset = encoding.prepare_dataset(experts, clip, vae, read_prompt_folder(pictures), small(encoding))
    shutil.rmtree(cache_folder())
    with pytest.raises(FileNotFoundError, match=r"\.safetensors was deleted while it was in use: start the node again"):
        dataset.batch_of([0])


def test_a_list_in_the_folder_says_what_is_held_out(encoding, checkpoint, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {i}" for i in range(12)))
    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    settings = small(encoding, paint_steps=1, paint_cfg=1.0)

    def held_out():
        dataset = encoding.prepare_dataset(experts, clip, vae, read_prompt_folder(tmp_path), settings)
        kept = [(item.caption, item.painter) for item in dataset.items if item.held_out]
        return kept, dataset.skipped

    by_hash, _ = held_out()
    assert len(by_hash) == 2 and by_hash[0][0] == by_hash[1][0]  # one prompt, by both painters
    (tmp_path / "held_out.txt").write_text("prompt 3\nprompt 7\n")
    assert held_out() == ([("prompt 3", 0), ("prompt 7", 0), ("prompt 3", 1), ("prompt 7", 1)], [])
    (tmp_path / "held_out.txt").write_text("nothing like it")
    assert held_out() == (by_hash, [("held_out.txt", "names none of the captions or files")])


def test_a_subset_stands_for_the_folder(encoding, checkpoint, pictures):
    experts, clip, vae = loaded(checkpoint, "tiny_sd15_a", "tiny_sd15_b")
    dataset = encoding.prepare_dataset(experts, clip, vae, read_prompt_folder(pictures), small(encoding, limit=2))
    assert len(dataset.items) == len({item.domain for item in dataset.items}) == 2
