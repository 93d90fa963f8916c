"""An ensemble as one of the host's models: the first expert's patcher, with the others as its companions.

Everything rides on the host's own mechanisms. The other experts and the aggregator are additional models,
which its memory manager loads beside the first; wrappers run them; the attachment holds what clones share.
"""

from __future__ import annotations

from functools import partial

import comfy.model_management
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ...aggregator.file import AggregatorFile
from ...aggregator.sabw import Aggregator
from ...fusion.averages import StaticFusion
from ...fusion.compiled import CompiledAttend, check_compiler
from ...fusion.fusion import FusionError
from ...fusion.levels import LevelFusion
from ...fusion.magic import MagicFusion
from ...fusion.sabw_fusion import SABWFusion
from ...fusion.selection import Selection, routing_table
from ...fusion.variance import MaxFusion
from ...routing.record import RoutingRecord
from ..experts.distilled import warn_of_distilled
from ..experts.experts import KEY, Expert, check_config, check_experts, compute_dtype
from ..experts.identity import check_identity
from ..experts.networks import share_networks
from ..module_patcher import module_patcher
from . import guidance, run, step
from .parts import Ensemble, ensemble_of

Rule = AggregatorFile | StaticFusion | LevelFusion | MagicFusion | MaxFusion
"""How experts are fused: trained, or without training."""


def check_fits(aggregator: Rule, experts: list[Expert]) -> None:
    """Raises ExpertError or FusionError, before any weight is moved, where the parts do not fit."""
    check_experts(experts)
    if isinstance(aggregator, AggregatorFile):
        check_config(aggregator.name, aggregator.config, experts)
        check_identity(aggregator, experts)
    else:
        aggregator.bind(experts[0].points, len(experts))


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
    check_fits(aggregator, experts)
    warn_of_distilled(experts)
    points = experts[0].points
    if isinstance(aggregator, AggregatorFile):
        patcher = aggregator_patcher(aggregator, compute_dtype(experts[0].patcher))
        fusion, companions = SABWFusion(patcher.model, top_k=aggregator.top_k), [patcher]
        table = routing_table(aggregator.routing, points, len(experts))
        selection = Selection(skip_below, decide_every, table, whole=aggregator.config.identity_bias)
    else:
        fusion, companions = aggregator.bind(points, len(experts)), []
        selection = Selection()
        if (skip_below, decide_every) != (0.0, 1):
            raise FusionError(
                "skip_below and decide_every go by what a trained aggregator decides, and this fusion has fixed shares: "
                "set skip_below to 0 and decide_every to 1, and disconnect the models that should not count."
            )

    # The other experts keep their options, and with them the models that patches bring along.
    companions = [*run.models_of_patches(experts[0].patcher.model_options["transformer_options"]), *companions]
    experts = share_networks(experts)
    companions = [*(expert.beside for expert in experts if expert.beside), *companions]
    main = experts[0].patcher.clone()
    options = [expert.patcher.model_options["transformer_options"] for expert in experts]
    main.model_options = {**main.model_options, "transformer_options": {}}
    ensemble = Ensemble(
        experts,
        points,
        fusion,
        companions,
        start_percent,
        end_percent,
        options,
        {key: len(patches) for key, patches in main.patches.items()},
        dict(main.object_patches),
        selection,
    )
    main.set_attachments(KEY, ensemble)
    run.set_companions(main, [expert.patcher for expert in experts], companions)
    main.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, run.prepare_sampling)
    main.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, run.sampler_sample)
    main.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, run.predict_noise)
    main.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, step.apply_model)
    main.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, partial(step.diffusion_model, experts[0].architecture))
    main.add_callback_with_key(CallbacksMP.ON_REGISTER_ALL_HOOK_PATCHES, KEY, run.register_hooks)
    main.add_callback_with_key(CallbacksMP.ON_APPLY_HOOKS, KEY, run.apply_hooks)
    main.add_callback_with_key(CallbacksMP.ON_PREPARE_STATE, KEY, run.prepare_state)
    main.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, run.pre_run)
    main.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, run.cleanup)
    if isinstance(fusion, MagicFusion):
        guidance.install(main)
    return main


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


def ensemble_record(main: ModelPatcher) -> RoutingRecord:
    """The routing record of an ensemble's patcher; its clones write into the same one."""
    return ensemble_of(main).record
