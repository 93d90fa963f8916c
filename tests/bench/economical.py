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
    import torch

    from afa_core.host.training.frozen_experts import outside_inference
    from afa_core.training.loop import TrainingSettings, training_step, update_ema
    from afa_core.training.state import TrainingState

    settings = TrainingSettings(
        steps=STEPS, batch_size=16, learning_rate=3e-4, warmup_steps=10, seed=7, ema=0.95, expert_dropout=dropout
    )
    optimizer = torch.optim.AdamW(module.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    scaler, state = torch.amp.GradScaler(enabled=False), TrainingState({})
    with outside_inference():
        while state.step < settings.steps:
            training_step(module, optimizer, scaler, pocket.frozen, data, settings, state)
            update_ema(state, module, settings.ema)
            state.step += 1
    module.load_state_dict(state.ema)
    return module
