"""What an economical aggregator, and one that was trained to do without experts, are worth on the scenes' near experts.

Each goes on from the committed aggregator for the same steps, data and seed; "faithful" is the control that changes nothing.
"""

from __future__ import annotations

from tests.pocket.scenes import datasets

from .near import Near
from .selective import by_table

LOOKS = 2
STEPS = 80
SKIP = 0.3
VARIANTS = {
    "faithful": ({}, 0.0),
    "routing_stride 2": ({"routing_stride": 2}, 0.0),
    "routing_stride 4": ({"routing_stride": 4}, 0.0),
    "expert_dropout 0.3": ({}, 0.3),
}


def bench_economical() -> list[str]:
    near = Near.start()
    data = datasets.training()
    lines = [
        f"| aggregator | held-out loss | against faithful | the same with skip_below {SKIP} |",
        "|---|---|---|---|",
    ]
    reference = None
    for name, (changes, dropout) in VARIANTS.items():
        module = tuned(near, data, near.module(**changes), dropout)
        loss = near.loss(lambda batch, draw, m=module: aggregated(m), LOOKS).mean().item()
        reference = reference or loss
        skipping = by_table(near, aggregated(module), SKIP, LOOKS)
        lines.append(
            f"| {name} | {loss:.5f} | {loss / reference - 1:+.2%} | {skipping.loss / reference - 1:+.2%}, "
            f"{skipping.blocks:.3f} of the blocks |"
        )
        print(lines[-1], flush=True)
    return [
        *lines,
        "",
        f"The committed aggregator of the near experts, trained {STEPS} steps of {datasets.BATCH} further in each way; held-out loss "
        f"as above, {LOOKS} draws. A latent of 8x16 has 128 positions, so the blocks work on 32 with routing_stride 2, and on 8 with 4.",
    ]


def aggregated(module):
    from afa_core.fusion.sabw_fusion import SABWFusion

    return SABWFusion(module)


def tuned(near: Near, data, module, dropout: float):
    """The module after some steps of the trainer's own, its weights averaged over the last of them."""
    from afa_core.host.training.frozen_experts import outside_inference
    from afa_core.training.loop import training_step
    from afa_core.training.state import Training, TrainingSettings, TrainingState

    settings = TrainingSettings(batch_size=datasets.BATCH, learning_rate=3e-4, warmup_steps=10, seed=7, ema=0.95)
    task = near.task(module.config, dropout, settings.seed)
    task.module.load_state_dict(module.state_dict())
    training = Training(task, data, settings, TrainingState({}))
    with outside_inference():
        for training.state.step in range(STEPS):
            training_step(training)
            training.average.update_parameters(task.module)
    module.load_state_dict(training.weights)
    return module
