"""What happens around a sampling run of an ensemble: hooks, memory, texts, routing record, clean-up.

Functions, not methods: the host deep-copies and clones what it is given, and finds everything it needs in
the patcher at hand.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import comfy.hooks
import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider
from torch import Tensor

from ...fusion.sabw_fusion import SABWFusion
from ...fusion.selection import Selector
from ...routing.record import RoutingRun
from ..architectures.noise import level_of
from ..experts.experts import (
    KEY,
    ExpertError,
    check_adds,
    check_runs_in_blocks,
    compute_dtype,
    later_objects,
    later_patches,
    later_weights,
)
from ..text.conditioning import check_texts, encode_texts
from .finite import FiniteCheck
from .parts import Ensemble, ensemble_of, experts_of, other_patchers, stands_for

RUN = "afa_run"
MODEL_SAMPLING = "model_sampling"
"""The object patch by which a node sets what a model predicts, and at which noise levels."""
TWO_MODELS = (
    "This guider samples with two models by the options of one, and an ensemble cannot share its options with a model that is an "
    "ensemble too or has the same network: connect the ensemble to a guider with one model, such as CFGGuider."
)
UNKNOWN_PROMPT = (
    "A guider or node evaluates a prompt that it keeps to itself, and only model_1's text of it is known: connect the ensemble to a "
    "guider with one model, such as CFGGuider or Perp-Neg Guider, or read all prompts by one CLIP."
)


_SAMPLED: ContextVar[Ensemble | None] = ContextVar("afa_sampled", default=None)


class Run:
    """One sampling run of an ensemble, or a single evaluation outside of one. `begin` also records its routing.

    Steps are counted, and noise levels are read from the device only where something depends on them: that waits.

    range: sigmas between which the experts are fused; None where they are in all of sampling
    at_guidance: whether this step has come to where guided predictions are fused
    prompt: identities of the conditionings that are the prompt's, not the negative prompt's
    own_texts: whether every prompt carries a text for each expert
    """

    def __init__(self, main: ModelPatcher):
        ensemble = ensemble_of(main)
        self.sampling = main.model.model_sampling
        percents = ensemble.start_percent, ensemble.end_percent
        whole = percents[0] <= 0 and percents[1] >= 1
        self.range = None if whole else [float(self.sampling.percent_to_sigma(percent)) for percent in percents]
        self.selector = Selector(ensemble.selection, ensemble.fusion, len(ensemble.points))
        self.finite = FiniteCheck()
        self.routing: RoutingRun | None = None
        self.step = 0
        self.at_guidance = False
        self.prompt: set[UUID] = set()
        self.own_texts = False
        self._read: tuple[int, float, float] | None = None

    def begin(self, main: ModelPatcher) -> Run:
        ensemble = ensemble_of(main)
        self.routing = ensemble.record.begin([expert.label for expert in ensemble.experts], ensemble.points)
        return self

    def next_step(self) -> None:
        self.step += 1
        if self.routing:
            self.routing.next_step()

    def finish(self, latent: Tensor | None) -> None:
        if self.routing:
            self.routing.finish(latent)

    def is_active(self, sigma: Tensor) -> bool:
        """Whether sigma [B] lies in the part of sampling that is ensembled."""
        if self.range is None:
            return True
        first, last = self.range
        return last <= self.noise_level(sigma)[0] <= first

    def noise_level(self, sigma: Tensor) -> tuple[float, float]:
        """The first sample's sigma, and its fraction of the noise range. Read once a step."""
        if self._read is None or self._read[0] != self.step or not self.routing:
            both = torch.stack([sigma[0].float(), level_of(self.sampling, sigma[:1])[0].float()])
            level, fraction = both.cpu().tolist()
            self._read = self.step, level, fraction
        return self._read[1:]


def run_of(main: ModelPatcher, options: dict[str, Any]) -> Run:
    """The run that these transformer options belong to."""
    return options.get(RUN) or Run(main)


def set_companions(main: ModelPatcher, patchers: list[ModelPatcher], others: list[ModelPatcher]) -> None:
    """Hands the experts beside the first, and the aggregator, to the host's memory manager.

    An expert with the very weights of an earlier one has no patcher of its own to load.
    """
    distinct = []
    for patcher in patchers[1:]:
        if not any(patcher.is_clone(other) for other in (main, *distinct)):
            distinct.append(patcher)
    main.set_additional_models(KEY, [*distinct, *others])


def models_of_patches(options: dict[str, Any]) -> list[ModelPatcher]:
    """The models that patches in an expert's own transformer options bring along, as IP-Adapters do."""
    return ModelPatcher.model_patches_models(_holding(options))


def _holding(options: dict[str, Any]) -> SimpleNamespace:
    """What the host's methods on a patcher's transformer options read."""
    return SimpleNamespace(model_options={"transformer_options": options})


def check_later_nodes(main: ModelPatcher, ensemble: Ensemble) -> None:
    """Raises ExpertError where a node behind the ensemble cannot act on all experts."""
    check_runs_in_blocks(main, "The ensemble", ensemble.objects)
    if main.injections != ensemble.injections:
        raise ExpertError(
            "A node behind the ensemble replaced layers of the first expert, as LoRA loaders in bypass mode do, which the others "
            "cannot use: use an ordinary Load LoRA, or put that node on each checkpoint, before AFA Ensemble Model."
        )
    if MODEL_SAMPLING in later_objects(main, ensemble.objects):
        kinds = {expert.prediction: expert.label for expert in ensemble.experts}
        if len(kinds) > 1:
            raise ExpertError(
                "A node behind the ensemble sets what all its models predict, and they differ "
                f"({', '.join(f'{label} {kind}' for kind, label in kinds.items())}): put that node on the checkpoints that need it, "
                "before AFA Ensemble Model."
            )
    if any(expert.beside for expert in ensemble.experts):
        check_adds(later_weights(main, ensemble.weights))


def register_hooks(main: ModelPatcher, hooks, target_dict: dict, model_options: dict, registered) -> None:
    """Before a run is prepared: the experts take over what was put on the ensemble, scheduled LoRAs included."""
    ensemble = ensemble_of(main)
    check_later_nodes(main, ensemble)
    patchers = [main]
    for expert in ensemble.experts[1:]:
        patcher = expert.patcher
        if any(stands_for(other, patcher) for other in patchers):
            continue
        if len(hooks) > 0 and hasattr(patcher, "get_non_dynamic_delegate"):
            # Paged weights cannot be scheduled. The host has replaced its main model by such a delegate already.
            patcher = patcher.get_non_dynamic_delegate()
        patcher = later_patches(patcher, main, ensemble.weights, ensemble.objects)
        if len(hooks) > 0:
            patcher = patcher.clone()
            patcher.register_all_hook_patches(hooks, target_dict, model_options, comfy.hooks.HookGroup())
        patchers.append(patcher)
    set_companions(main, patchers, ensemble.companions)


def apply_hooks(main: ModelPatcher, hooks) -> None:
    """Whenever the first expert's scheduled weights change, so do the others'."""
    for patcher in other_patchers(main):
        patcher.hook_mode = main.hook_mode
        patcher.apply_hooks(hooks)


def check_guider(guider) -> None:
    """Raises ExpertError where a guider's second model, as that of Dual Model CFG Guider, would run by this ensemble's options."""
    main = guider.model_patcher
    others = [value for value in vars(guider).values() if isinstance(value, ModelPatcher) and value is not main]
    if any(other.is_clone(main) for other in others):
        raise ExpertError(TWO_MODELS)


def prepare_state(main: ModelPatcher, *call) -> None:
    """Before every evaluation: what a changed keyframe took off the first expert goes off the others too.

    The host notices the change on its main model only: it forgets the weights that it kept for later steps, and may
    take the hooks off. It logs nothing then, and nothing either when what comes next runs without hooks.
    """
    for patcher in other_patchers(main):
        for group in patcher.cached_hook_patches.keys() - main.cached_hook_patches.keys():
            del patcher.cached_hook_patches[group]
        if main.current_hooks is None and patcher.current_hooks is not None:
            patcher.patch_hooks(None)


def outer_sample(executor, *args, **kwargs):
    """Notes for `pre_run` whose wrappers the host calls."""
    guider: CFGGuider = executor.class_obj
    token = _SAMPLED.set(ensemble_of(guider.model_patcher))
    try:
        return executor(*args, **kwargs)
    finally:
        _SAMPLED.reset(token)


def prepare_sampling(executor, main: ModelPatcher, noise_shape, conds, *args, **kwargs):
    """Checks latent and texts before memory is spent, and lets the memory estimate cover the fusion."""
    if len(noise_shape) == 5 and noise_shape[2] > 1:
        raise ExpertError(
            f"The latent is a video of {noise_shape[2]} frames, and an ensemble paints single pictures: connect a latent "
            "of one frame."
        )
    check_texts(conds, ensemble_of(main).experts)
    batch = noise_shape[0] * activation_factor(main, noise_shape)  # for the estimate only, so it may be broken
    return executor(main, [batch, *noise_shape[1:]], conds, *args, **kwargs)


def activation_factor(main: ModelPatcher, noise_shape) -> float:
    """How much more activation memory an ensemble needs than its first expert alone."""
    ensemble = ensemble_of(main)
    positions = noise_shape[0] * noise_shape[-2] * noise_shape[-1]
    hidden = ensemble.fusion.aggregator.config.hidden_size if isinstance(ensemble.fusion, SABWFusion) else 0
    size, count = compute_dtype(main).itemsize, len(ensemble.experts)
    extra = positions * ensemble.experts[0].architecture.fusion_memory(ensemble.points, count, hidden, size)
    return 1 + extra / main.memory_required(list(noise_shape))


def sampler_sample(executor, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, *rest):
    """One sampling run: the experts' texts go in, the record of their routing comes out."""
    check_guider(guider)
    main = guider.model_patcher
    own_texts = encode_texts(
        guider, experts_of(main), noise, latent_image=latent_image, denoise_mask=denoise_mask,
        seed=extra_args.get("seed"),
    )  # fmt: skip
    current = Run(main).begin(main)
    current.own_texts = own_texts
    current.prompt = {cond["uuid"] for cond in guider.conds.get("positive", ())}
    for name, conds in guider.conds.items():
        if name != "positive":  # for an area the host copies an entry to the other side, identity included
            conds[:] = [{**cond, "uuid": uuid4()} if cond["uuid"] in current.prompt else cond for cond in conds]
    extra_args["model_options"].setdefault("transformer_options", {})[RUN] = current
    latent = None
    try:
        samples = executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *rest)
        current.finite.read_sums()
        latent = guider.inner_model.process_latent_out(samples.to(torch.float32))
        return samples
    finally:
        current.finish(latent)


def predict_noise(executor, x, timestep, model_options, *args, **kwargs):
    """Every prediction of the sampler begins a step."""
    current = model_options.get("transformer_options", {}).get(RUN)
    if current is not None:
        current.next_step()
    return executor(x, timestep, model_options, *args, **kwargs)


def pre_run(main: ModelPatcher) -> None:
    """Raises ExpertError where the ensemble is a guider's second model, which runs by the options of the first."""
    if _SAMPLED.get() is not ensemble_of(main):
        raise ExpertError(TWO_MODELS)
    for expert, options in zip(experts_of(main), ensemble_of(main).own_options, strict=True):
        # As the host's loader does with the options of a model, of which these have been taken out.
        ModelPatcher.model_patches_to(_holding(options), expert.patcher.load_device)
        ModelPatcher.model_patches_to(_holding(options), expert.patcher.model_dtype())
    for patcher in other_patchers(main):
        patcher.pre_run()


def cleanup(main: ModelPatcher) -> None:
    for patcher in other_patchers(main):
        patcher.cleanup()
