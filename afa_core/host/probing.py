"""The probe's measurements: every expert by itself, one network in memory at a time, on the same noisy latents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.model_management
import comfy.patcher_extension
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from safetensors.torch import load_file
from torch import Tensor

from ..atomic_file import write_safetensors
from ..probe.measure import LEVELS, examine, gram_of
from ..probe.report import Probe, best_fixed_mix
from ..training.data.dataset import LatentDataset
from ..training.data.prompt_folder import PromptFolder
from .architectures.frames import in_format, without_frames
from .architectures.noise import sigma_of
from .experts.beside import acting
from .experts.experts import Expert, ExpertError, check_experts
from .experts.networks import networks_in_turn
from .sampling.prediction import slope
from .training.encoding import DatasetSettings, prepare_dataset
from .training.pictures import Progress

SAMPLED = 1024
"""Weights read of each tensor to compare two models."""


@dataclass(frozen=True)
class ProbeSettings:
    """pictures: how many of the folder's are used, evenly of all sub-folders; draws: noises for each at each level."""

    pictures: int = 16
    draws: int = 8
    resolution: int = 512
    seed: int = 0


def probe(
    experts: list[Expert],
    clip: CLIP,
    vae: VAE | None,
    folder: PromptFolder,
    settings: ProbeSettings,
    progress: Progress = lambda done, total, what: None,
) -> Probe:
    """Raises ExpertError where the experts do not fit one another, one of them is broken, or one picture is all there is."""
    check_experts(experts)
    folder = _probed(folder)
    _check_several(folder.items)
    # Painted pictures come once an expert.
    limit = settings.pictures if folder.has_pictures else -(-settings.pictures // len(experts))
    wanted = DatasetSettings(settings.resolution, settings.seed, held_out=0, caption_dropout=0, limit=limit)
    dataset = prepare_dataset(experts, clip, vae, folder, wanted, progress)
    _check_several(dataset.items)  # some may be broken
    scratch = Path(folder_paths.get_temp_directory())
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="afa_probe_", dir=scratch) as place:
        total, done = len(experts) * len(dataset.items), 0
        weights = {}
        for members in networks_in_turn(experts):
            with _alone_in_memory(list(members.values()), settings.draws, dataset):
                for index, expert in members.items():
                    weights[index] = sampled_weights(expert.patcher)
                    for item in range(len(dataset.items)):
                        comfy.model_management.throw_exception_if_processing_interrupted()
                        with _running(expert):
                            errors = _errors(experts[0], expert, index, dataset, item, settings)
                        write_safetensors(errors, {}, _file(place, item, index), durable=False)
                        done += 1
                        progress(done, total, "evaluating experts")
        return _examined(experts, dataset, [weights[index] for index in sorted(weights)], settings, place, progress)


def _check_several(items: Sized) -> None:
    if len(items) < 2:
        raise ExpertError("The probe compares pictures or prompts, and found one: add more to the folder.")


def _probed(folder: PromptFolder) -> PromptFolder:
    """What a training on the folder would be judged by, where a held_out.txt names several; else all of it."""
    listed = [*filter(folder.lists_as_held_out, folder.items)]
    return replace(folder, items=listed if len(listed) > 1 else folder.items, held_out=frozenset())


def _examined(
    experts: list[Expert],
    dataset: LatentDataset,
    weights: list[Tensor],
    settings: ProbeSettings,
    place: str,
    progress: Progress,
) -> Probe:
    """Reads the stored errors twice: for the best fixed mix, then for the routers, which start from it."""
    count = len(dataset.items)

    def errors(item: int) -> Iterator[Tensor]:
        files = [load_file(_file(place, item, index)) for index in range(len(experts))]
        return (torch.stack([file[f"{level}"] for file in files]).float() for level in LEVELS)

    grams = torch.stack([torch.stack([gram_of(level) for level in errors(item)]) for item in range(count)])
    fixed = best_fixed_mix(grams)
    cells = []
    for item in range(count):
        comfy.model_management.throw_exception_if_processing_interrupted()
        cells.append([examine(level, fixed) for level in errors(item)])
        progress(item + 1, count, "comparing experts")
    domains = [item.domain for item in dataset.items]
    labels = [expert.label for expert in experts]
    return Probe(labels, domains, LEVELS, settings.draws, cosines(weights), cells, settings.seed, tuple(dataset.skipped))


@contextmanager
def _alone_in_memory(members: list[Expert], draws: int, dataset: LatentDataset) -> Iterator[None]:
    """members: experts on one network, with what is their own beside it."""
    patcher = members[0].patcher
    with torch.inference_mode():
        comfy.model_management.unload_all_models()
        needed = patcher.memory_required([draws, *dataset.largest_latent])
        loaded = [patcher, *(expert.beside for expert in members if expert.beside)]
        comfy.model_management.load_models_gpu(loaded, memory_required=needed)
        yield


@contextmanager
def _running(expert: Expert) -> Iterator[None]:
    expert.patcher.pre_run()
    try:
        with acting(expert.own_patches):
            yield
    finally:
        expert.patcher.cleanup()


def _errors(
    first: Expert, expert: Expert, index: int, dataset: LatentDataset, item: int, settings: ProbeSettings
) -> dict[str, Tensor]:
    """By level, an expert's errors [M, C, h, w] in float16: its prediction in the first expert's terms less the right one.

    Every kind of prediction is affine in the denoised latent, so that the difference of two needs the slope alone.
    """
    batch = dataset.batch_of([item])
    device = expert.patcher.load_device
    latent = batch.latents.to(device).expand(settings.draws, -1, -1, -1)
    text = {
        k: v.to(device).expand(settings.draws, *v.shape[1:]) for k, v in batch.texts[index].items() if v is not None
    }
    sampling = first.patcher.get_model_object("model_sampling")
    errors = {}
    for number, level in enumerate(LEVELS):
        generator = torch.Generator().manual_seed((settings.seed * 10_007 + item) * 101 + number)
        noise = torch.randn(latent.shape, generator=generator).to(device)
        sigma = sigma_of(sampling, torch.tensor([level / 1000])).to(device).expand(settings.draws)
        noisy = sampling.noise_scaling(sigma[:, None, None, None], noise, latent.clone())
        denoised = denoise(expert, noisy, sigma, text)
        error = (denoised.float() - latent) / slope(sampling, sigma)
        if not torch.isfinite(error).all():
            raise ExpertError(
                f"{expert.label} produced NaN or infinite numbers at timestep {level}: run this checkpoint alone to see "
                "whether it is sound, or start ComfyUI with --force-upcast-attention or --fp32-unet."
            )
        errors[f"{level}"] = error.clamp(-6e4, 6e4).half().cpu().contiguous()
    return errors


def denoise(expert: Expert, noisy: Tensor, sigma: Tensor, text: dict[str, Tensor]) -> Tensor:
    """The host's own evaluation of a loaded model, with what nodes have put on it: noisy [B, C, h, w] to clean."""
    patcher = expert.patcher
    options = dict(patcher.model_options.get("transformer_options", {}))
    options["wrappers"] = comfy.patcher_extension.copy_nested_dicts(patcher.wrappers)
    options["callbacks"] = comfy.patcher_extension.copy_nested_dicts(patcher.callbacks)
    options |= {"cond_or_uncond": [0], "sigmas": sigma[:1], "sample_sigmas": sigma[:1]}
    conds = {**dict.fromkeys(expert.architecture.own), **text}  # a network may take one that it does without
    return without_frames(
        patcher.model.apply_model(in_format(patcher.model, noisy), sigma, transformer_options=options, **conds)
    )


def sampled_weights(patcher: ModelPatcher) -> Tensor:
    """Evenly spaced weights of a loaded network, scaled so that their products stand for those of all."""
    parts = []
    for _, parameter in sorted(patcher.model.diffusion_model.named_parameters()):
        values = parameter.detach().flatten()
        count = min(SAMPLED, len(values))
        picked = values[torch.arange(count, device=values.device) * (len(values) - 1) // max(count - 1, 1)]
        parts.append(picked.cpu().double() * (len(values) / count) ** 0.5)
    return torch.cat(parts)


def cosines(weights: list[Tensor]) -> Tensor:
    """[K, K] of the sampled weights of K networks; zero between networks of different size."""
    count = len(weights)
    matrix = torch.eye(count, dtype=torch.float64)
    for i in range(count):
        for j in range(i):
            if weights[i].shape == weights[j].shape:
                matrix[i, j] = matrix[j, i] = torch.cosine_similarity(weights[i], weights[j], dim=0)
    return matrix


def _file(place: str, item: int, expert: int) -> Path:
    return Path(place, f"{item}_{expert}.safetensors")
