"""An ensemble as one of the host's models: the first expert's patcher, with the others as its companions.

Everything uses the host's own mechanisms. The other experts and the aggregator are additional models,
which its memory manager loads beside the first; wrappers run them; the attachment holds what clones share.
"""

from __future__ import annotations

from functools import partial

import comfy.model_management
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, PatcherInjection, WrappersMP

from ...aggregator.file import AggregatorFile
from ...aggregator.sabw import Aggregator
from ...fusion.compiled import CompiledAttend, check_compiler
from ...fusion.fusion import Fusion, FusionError, FusionRule
from ...fusion.magic import MagicFusion
from ...fusion.sabw_fusion import SABWFusion
from ...fusion.selection import Selection, routing_table
from ..experts.distilled import distilled_notices
from ..experts.experts import KEY, Expert, ExpertError, check_config, check_experts, compute_dtype
from ..experts.identity import check_identity
from ..experts.networks import share_networks
from ..experts.whole_model import whole_model_notices
from ..module_patcher import module_patcher
from ..notices import notify
from . import guidance, run, step
from .parts import Ensemble, ensemble_of

Rule = AggregatorFile | FusionRule
"""How experts are fused: trained, or without training."""


def check_fits(aggregator: Rule, experts: list[Expert]) -> list[str]:
    """Raises ExpertError or FusionError, before any weight is moved, where the parts do not fit.

    Gives sentences on what may not fit well.
    """
    check_experts(experts)
    notices = distilled_notices(experts) + whole_model_notices(experts)
    if isinstance(aggregator, AggregatorFile):
        check_config(aggregator.name, aggregator.config, experts)
        notices += check_identity(aggregator, experts)
    else:
        aggregator.bind(experts[0].points, len(experts))
    return notices


def make_ensemble(
    aggregator: Rule,
    experts: list[Expert],
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    skip_below: float = 0.0,
    decide_every: int = 1,
) -> ModelPatcher:
    """A model that evaluates all experts in lockstep between the two percents of sampling, and the first
    alone outside them. skip_below, decide_every: as in Selection.

    Raises what `check_fits` raises.
    """
    if start_percent > end_percent:
        raise FusionError(
            f"start_percent {start_percent:g} comes after end_percent {end_percent:g}, and no step would be fused: exchange them."
        )
    notify(check_fits(aggregator, experts))
    fusion, companions, selection = _bound(aggregator, experts, skip_below, decide_every)
    # The other experts keep their options, and with them the models that patches bring along.
    companions = [*run.models_of_patches(experts[0].patcher.model_options["transformer_options"]), *companions]
    experts = share_networks(experts)
    companions = [*(expert.beside for expert in experts if expert.beside), *companions]
    main = experts[0].patcher.clone()
    options = [expert.patcher.model_options["transformer_options"] for expert in experts]
    main.model_options = {**main.model_options, "transformer_options": {}}
    main.set_injections(KEY, [*main.injections.get(KEY, ()), PatcherInjection(_refuse_saving, _allow_saving)])
    ensemble = Ensemble(
        experts=experts,
        points=experts[0].points,
        fusion=fusion,
        companions=companions,
        start_percent=start_percent,
        end_percent=end_percent,
        own_options=options,
        weights={key: len(patches) for key, patches in main.patches.items()},
        objects=dict(main.object_patches),
        injections=dict(main.injections),
        selection=selection,
    )
    main.set_attachments(KEY, ensemble)
    run.set_companions(main, [expert.patcher for expert in experts], companions)
    _install(main, experts[0])
    if isinstance(fusion, MagicFusion):
        guidance.install(main)
    return main


def _bound(
    aggregator: Rule, experts: list[Expert], skip_below: float, decide_every: int
) -> tuple[Fusion, list[ModelPatcher], Selection]:
    """The fusion, the models that it needs beside the experts, and which experts it may leave out."""
    points = experts[0].points
    if isinstance(aggregator, AggregatorFile):
        patcher = aggregator_patcher(aggregator, compute_dtype(experts[0].patcher))
        table = routing_table(aggregator.routing, points, len(experts))
        selection = Selection(skip_below, decide_every, table, whole=aggregator.config.identity_bias)
        return SABWFusion(patcher.model, top_k=aggregator.top_k), [patcher], selection
    if (skip_below, decide_every) != (0.0, 1):
        raise FusionError(
            "skip_below and decide_every go by what a trained aggregator decides, and this fusion is not trained: "
            "set skip_below to 0 and decide_every to 1, and disconnect the models that should not count."
        )
    return aggregator.bind(points, len(experts)), [], Selection()


def _install(main: ModelPatcher, first: Expert) -> None:
    wrappers = {
        WrappersMP.OUTER_SAMPLE: run.outer_sample,
        WrappersMP.PREPARE_SAMPLING: run.prepare_sampling,
        WrappersMP.SAMPLER_SAMPLE: run.sampler_sample,
        WrappersMP.PREDICT_NOISE: run.predict_noise,
        WrappersMP.APPLY_MODEL: step.apply_model,
        WrappersMP.DIFFUSION_MODEL: partial(step.diffusion_model, first.architecture),
    }
    callbacks = {
        CallbacksMP.ON_REGISTER_ALL_HOOK_PATCHES: run.register_hooks,
        CallbacksMP.ON_APPLY_HOOKS: run.apply_hooks,
        CallbacksMP.ON_PREPARE_STATE: run.prepare_state,
        CallbacksMP.ON_PRE_RUN: run.pre_run,
        CallbacksMP.ON_CLEANUP: run.cleanup,
    }
    for kind, wrapper in wrappers.items():
        main.add_wrapper_with_key(kind, KEY, wrapper)
    for kind, callback in callbacks.items():
        main.add_callback_with_key(kind, KEY, callback)


def _refuse_saving(main: ModelPatcher) -> None:
    """While an ensemble is loaded, nodes that save a model find this in place of the host's method."""

    def refuse(*args, **kwargs):
        raise ExpertError(
            "An ensemble is several networks, and a file would hold model_1's alone: save what AFA Merge Models gives, or train a "
            "LoRA with Distil AFA Ensemble."
        )

    main.model.state_dict_for_saving = refuse


def _allow_saving(main: ModelPatcher) -> None:
    vars(main.model).pop("state_dict_for_saving", None)


def aggregator_patcher(file: AggregatorFile, dtype: torch.dtype) -> ModelPatcher:
    """The aggregator as a model of the host's, in the dtype that the experts compute in."""
    offload = comfy.model_management.unet_offload_device()
    module = Aggregator(file.config, comfy.ops.disable_weight_init, dtype=dtype, device=offload)
    module.load_state_dict(file.state)
    return module_patcher(module, comfy.model_management.get_torch_device(), offload)


def compile_aggregator(main: ModelPatcher) -> None:
    """Lets a trained aggregator run compiled. Raises FusionError where PyTorch cannot compile."""
    fusion = ensemble_of(main).fusion
    if isinstance(fusion, SABWFusion):
        check_compiler(main.load_device)
        fusion.attend = CompiledAttend()
