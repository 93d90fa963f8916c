"""What an economical aggregator, and one that was trained to do without experts, are worth on the pocket experts.

Each goes on from the shipped aggregator for the same steps, data and seed; "faithful" is the control that changes nothing.
"""

from __future__ import annotations

from tests.pocket import folder

from .pocket import Pocket
from .selective import by_table

LOOKS = 2
STEPS = 40
SKIP = 0.3
VARIANTS = {
    "faithful": ({}, 0.0),
    "routing_stride 2": ({"routing_stride": 2}, 0.0),
    "routing_stride 4": ({"routing_stride": 4}, 0.0),
    "expert_dropout 0.3": ({}, 0.3),
}


def bench_economical() -> list[str]:
    pocket = Pocket.start()
    data = pocket.dataset(folder.training())
    lines = [
        f"| aggregator | held-out loss | against faithful | the same with skip_below {SKIP} |",
        "|---|---|---|---|",
    ]
    reference = None
    for name, (changes, dropout) in VARIANTS.items():
        module = tuned(pocket, data, pocket.module(**changes), dropout)
        loss = pocket.loss(lambda batch, draw, m=module: aggregated(m), LOOKS).mean().item()
        reference = reference or loss
        skipping = by_table(pocket, aggregated(module), SKIP, LOOKS)
        lines.append(
            f"| {name} | {loss:.5f} | {loss / reference - 1:+.2%} | {skipping.loss / reference - 1:+.2%}, "
            f"{skipping.blocks:.3f} of the blocks |"
        )
        print(lines[-1], flush=True)
    return [
        *lines,
        "",
        f"The shipped aggregator of the pocket experts, trained {STEPS} steps of 16 further in each way; held-out loss as above, "
        f"{LOOKS} draws. A latent of 8x8 has 64 positions, so the blocks work on 16 with routing_stride 2, and on 4 with 4.",
    ]


def aggregated(module):
    from afa_core.fusion.sabw_fusion import SABWFusion

    return SABWFusion(module)


def tuned(pocket: Pocket, data, module, dropout: float):
    """The module after some steps of the trainer's own, its weights averaged over the last of them."""
    from afa_core.host.training.frozen_experts import outside_inference
    from afa_core.training.loop import training_step
    from afa_core.training.state import Training, TrainingSettings, TrainingState
    from afa_core.training.tasks.aggregator import AggregatorSettings, AggregatorTask

    settings = TrainingSettings(batch_size=16, learning_rate=3e-4, warmup_steps=10, seed=7, ema=0.95)
    task = AggregatorTask(pocket.frozen, module.config, [], AggregatorSettings(expert_dropout=dropout), settings.seed)
    task.module.load_state_dict(module.state_dict())
    training = Training(task, data, settings, TrainingState({}))
    with outside_inference():
        for training.state.step in range(STEPS):
            training_step(training)
            training.average.update_parameters(task.module)
    module.load_state_dict(training.weights)
    return module
