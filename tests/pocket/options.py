"""What the trainer's options are worth: python -m tests.pocket.options [--steps N]

Each option is trained for the same steps from the same seed as the published recipe (hidden width, learning rate and
batch are those of the shipped aggregator), and compared with it on held-out subjects and on subjects that the experts
know. Where an early stop would have ended is read off the shipped aggregator's training. A finished training is not
repeated.
"""

import argparse
from pathlib import Path

from . import aggregator, folder, results

STEPS = 400
PLAIN = {"ema": 0.0, "flip": False, "load_balance": 0.0}
RECIPE = "the published recipe"
CHANGES = {
    RECIPE: {},
    "averaged weights, 0.998": {"ema": 0.998},
    "min-SNR, gamma 5": {"min_snr_gamma": 5.0},
    "load balance 0.2": {"load_balance": 0.2},
    "mirrored pictures": {"flip": True},
    "expert dropout 0.3": {"expert_dropout": 0.3},
}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--steps", type=int, default=STEPS)
    steps = ask.parse_args().steps
    running = aggregator.host()
    trained = {}
    for number, (title, changes) in enumerate(CHANGES.items()):
        name = f"option_{number}"
        aggregator.train(running, steps, minutes=60, save_as=name, **{**PLAIN, **changes})
        # What the last step left, so that the choice of the best one does not mix with what is compared.
        trained[title] = Path(running.base, "models", "afa", f"{name}-last.safetensors")
    for title, pictures in (("Held-out subjects", folder.held_out()), ("Subjects that the experts know", folder.known())):
        found = results.evaluate(running, pictures, results.LOOKS, trained)
        print(f"\n{title}, {steps} steps each\n\n| option | loss | against the recipe | 95 % interval |\n|---|---|---|---|")
        for name in CHANGES:
            loss = found.losses[name]
            mean, low, high = results.interval(loss - found.losses[RECIPE], found.subjects)
            print(f"| {name} | {loss.mean():.4f} | {mean:+.5f} | {low:+.5f} to {high:+.5f} |")
    print(f"\n{early_stop(running)}")


def early_stop(running, patience: int = 3) -> str:
    import json

    from safetensors import safe_open

    from afa_core.training.loop import is_flat

    with safe_open(Path(running.base, "models", "afa", f"{aggregator.NAME}.resume"), "pt") as state:
        rows = json.loads(state.metadata()["evaluations"])
    losses = [row["held_out"] for row in rows]
    ends = next((end for end in range(1, len(rows) + 1) if is_flat(losses[:end], patience)), len(rows))
    found = (min(losses[:end]) for end in (ends, len(rows)))
    return (
        f"Early stop after {patience} looks without improvement: at step {rows[ends - 1]['step']} of {rows[-1]['step']}; "
        "best watched loss {:.4f} instead of {:.4f}.".format(*found)
    )


if __name__ == "__main__":
    main()
