"""One evaluation of an ensemble inside the host's call of its first expert.

APPLY_MODEL notes what the network itself is not given (sigma, the unscaled latent, the experts' texts);
DIFFUSION_MODEL runs all experts in lockstep in place of the first one's forward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import merge_nested_dicts
from torch import Tensor

from ...fusion.fusion import Embeddings, Feature, Fusion, FusionState, Observe
from ...fusion.lockstep import BlockStream, lockstep
from ...fusion.magic import MagicFusion
from ...fusion.not_finite import checking_every_feature
from ...fusion.points import FusionPoint
from ...fusion.selection import Choice
from ..architectures.architecture import Architecture, Inputs
from ..architectures.frames import with_frames, without_frames
from ..architectures.noise import level_of
from ..architectures.transformer_stream import BlockSkipped
from ..experts.beside import acting
from ..experts.compiled_blocks import with_compiled_blocks
from ..experts.experts import Expert, ExpertError
from ..experts.held_weights import HeldWeights, held_weights
from ..experts.streams import expert_stream
from ..out_of_memory import SAMPLING, naming_what_ran
from ..text.conditioning import take_texts, text_of
from .parts import ensemble_of, experts_of, fusion_on
from .patch_memory import PatchMemory, memories
from .prediction import fuse_in_first_terms
from .run import UNKNOWN_PROMPT, Run, run_of

CALL = "afa_call"
EXPERT = "afa_expert"
"""Where the transformer options hold it, this one expert runs alone: a number of 0..N-1."""


@dataclass
class Call:
    """What apply_model was called with. sigma [B], x [B, C, H, W] before input scaling."""

    main: ModelPatcher
    sigma: Tensor
    x: Tensor
    texts: dict[str, Tensor]
    run: Run


def apply_model(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds):
    main, options = executor.class_obj.current_patcher, transformer_options or {}
    if ensemble_of(main) is None:
        # A guider that paints its negative prompt with another model gives that the ensemble's options.
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **conds)
    texts, current = take_texts(conds), run_of(main, options)
    if current.own_texts and not texts:
        raise ExpertError(UNKNOWN_PROMPT)
    options = {**options, CALL: Call(main, t, x, texts, current)}
    return executor(x, t, c_concat, c_crossattn, control, options, **conds)


def diffusion_model(architecture: Architecture, executor, *args, **kwargs):
    inputs = architecture.named(args, kwargs)
    options = inputs["transformer_options"] = dict(inputs["transformer_options"] or {})
    if CALL not in options:  # another model's call, as above
        return executor(*args, **kwargs)
    call: Call = options.pop(CALL)
    only = options.pop(EXPERT, 0 if isinstance(ensemble_of(call.main).fusion, MagicFusion) else None)

    def evaluate(*args, **kwargs):
        inputs = architecture.named(args, kwargs)
        if call.run.is_active(call.sigma):
            return ensemble_prediction(call, inputs, only)
        alone = own_options(call.main, 0, inputs["transformer_options"])
        args, kwargs = architecture.positional({**inputs, "transformer_options": alone})
        with acting(experts_of(call.main)[0].own_patches):
            return executor.original(*args, **kwargs)

    # Wrappers that were added to the ensemble later act on the ensemble, not on its first expert.
    later = executor.wrappers[executor.idx + 1 :]
    inner = type(executor).new_class_executor(evaluate, executor.class_obj, later)
    args, kwargs = architecture.positional(inputs)
    return inner.execute(*args, **kwargs)


def ensemble_prediction(call: Call, inputs: Inputs, only: int | None) -> Tensor:
    """The fused prediction, shaped as the latent, of all experts or of `only` one; in the first expert's terms."""
    x, options = inputs["x"], inputs["transformer_options"]
    ensemble = ensemble_of(call.main)
    experts = experts_of(call.main)
    running = range(len(experts)) if only is None else [only]
    choice = _choice(call, options) if only is None else Choice(ensemble.fusion)
    keep = choice.keep and choice.keep.keep
    evaluation = None
    if call.run.routing and only is None:
        evaluation = call.run.routing.evaluate(call.sigma, _guided(call.run, options, len(x)))
    samplings = [experts[index].patcher.model.model_sampling for index in running]
    level = level_of(call.main.model.model_sampling, call.sigma)
    noisy = without_frames(call.x)
    fusion = fusion_on(call.main, choice.fusion)
    fusion = fuse_in_first_terms(fusion, samplings, call.sigma, noisy, call.main.model.model_sampling)
    labels = [experts[index].label for index in running]

    def evaluate(fusion: Fusion, observe: Observe | None) -> Tensor:
        networks = Counter(experts[index].patcher.model.diffusion_model for index in running)
        shared = [network for network, uses in networks.items() if uses > 1]
        own = [own_options(call.main, index, options) for index in running]
        with held_weights(shared, x.device) as held:
            streams, embeddings = zip(
                *(
                    stream_of(call, index, experts[index], {**inputs, "transformer_options": each}, memory, choice)
                    for index, each, memory in zip(running, own, memories(own), strict=True)
                ),
                strict=True,
            )
            state = FusionState(embeddings, observe, level, keep)
            others = {experts[index].patcher for index in running} - {call.main}  # the host has put in the first one's
            fused = with_compiled_blocks(others, lambda: lockstep(streams, ensemble.points, _fusing(fusion, held, labels), state))
            return with_frames(fused, x).to(x.dtype)

    def repeat() -> Tensor:
        moment = _moment(options, call.sigma[0].item())
        return evaluate(checking_every_feature(fusion, labels, moment), None)  # not a step: nothing is recorded

    prediction = evaluate(fusion, evaluation and evaluation.observe)
    if evaluation:
        evaluation.end()
    if choice.keep:
        choice.keep.end()
    return call.run.finite.check(call.run.step, prediction, x, repeat)


def _guided(run: Run, options: dict[str, Any], batch: int) -> list[bool]:
    """For every sample of the batch, whether it is the prompt's."""
    conds = options["uuids"]  # not by their places: a guider may have the negative prompt first
    return [uuid in run.prompt for uuid in conds for _ in range(batch // len(conds))]


def _choice(call: Call, options: dict[str, Any]) -> Choice:
    """Which experts are left out of this evaluation, and by what it is fused."""
    batch = (*options.get("uuids", ()), *call.x.shape, call.x.device)
    return call.run.selector.choose(call.run.step, lambda: call.run.noise_level(call.sigma)[1], batch)


def stream_of(
    call: Call, index: int, expert: Expert, inputs: Inputs, memory: PatchMemory, choice: Choice
) -> tuple[BlockStream, Embeddings]:
    """Expert `index`'s stream of this call: its own conditioning where it has one, and its own timesteps.

    inputs: the network's arguments, with transformer options of this expert's own
    memory: what its patches remember
    """
    model = expert.patcher.model
    if model.model_sampling is not call.main.model.model_sampling:
        timesteps = model.model_sampling.timestep(call.sigma).float()
        inputs["timesteps"] = model.process_timestep(timesteps, **{**inputs, "x": call.x})  # Cosmos' go by the mask
    own = {name: text_of(call.texts, index, name) for name in expert.architecture.own}
    with memory.recalled():
        stream, embeddings = expert_stream(expert, inputs, own, choice.left_out.get(index, ()))
    return _named(memory.of(stream), expert.label), embeddings


def own_options(main: ModelPatcher, index: int, options: dict[str, Any]) -> dict[str, Any]:
    """This evaluation's transformer options with the expert's own patches before them, free to write into."""
    return merge_nested_dicts(ensemble_of(main).own_options[index], options)


def _named(stream: BlockStream, label: str) -> BlockStream:
    """The stream, with errors that name its expert where memory runs out in it, or a block is skipped."""
    try:
        with naming_what_ran(label, SAMPLING):
            yield from stream
    except BlockSkipped as error:
        raise ExpertError(
            f"{label} did not run its block {error.block}, and its features are fused there: remove the node that skips "
            "blocks of this model."
        ) from error


def _fusing(fusion: Fusion, held: HeldWeights, labels: list[str]) -> Fusion:
    """The fusion, with errors that name the aggregator where memory runs out in it, and experts of different sizes.

    When features meet, every expert is behind the block whose weights were held, so they are released.
    """

    def fuse(point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        held.release()
        _check_sizes(point, features, labels)
        with naming_what_ran("The aggregator", SAMPLING):
            return fusion(point, features, state)

    return fuse


def _check_sizes(point: FusionPoint, features: Sequence[Feature], labels: list[str]) -> None:
    (first, size), *others = [(n, f.shape[2:]) for n, f in zip(labels, features, strict=True) if f is not None]
    for label, other in others:
        if other != size:
            raise ExpertError(
                f"{label}'s features at {point.name} are of {list(other)} and {first}'s of {list(size)}: put the node that shrinks "
                "or enlarges the features of one model, as Kohya Deep Shrink does, behind AFA Ensemble Model."
            )


def _moment(options: dict[str, Any], sigma: float) -> str:
    """Which step of the sampler this is, as far as the caller says: some evaluate between two steps."""
    if "sample_sigmas" not in options:
        return f"at noise level {sigma:.3f}"
    levels = options["sample_sigmas"].tolist()[:-1]
    step = max(1, sum(level >= sigma for level in levels))
    return f"in step {step} of {len(levels)} (noise level {sigma:.3f})"
