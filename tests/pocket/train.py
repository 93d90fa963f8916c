"""Trains what the scenes start from, on single pictures: python tests/pocket train [stages ...] [--vae-minutes M ...]

Stages: vae (the autoencoder), base (a U-Net with its text encoder), decoder (the autoencoder's decoder alone, which is then
committed). By default all of them, or none where the autoencoder and the scenes' base are in weights/: to train
everything again, remove what is there. Every stage stops after its minutes, can be interrupted and resumed, starts from a
fixed seed, and leaves its result in .pocket/.
"""
import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from . import common, diffusion, vae  # noqa: E402

STAGES = {"vae": vae.train, "base": diffusion.train, "decoder": vae.polish}
MINUTES = {"vae": 16.0, "base": 30.0, "decoder": 4.0}


def lacking():
    """The stages that weights/ is not complete without."""
    made = vae.COMMITTED, common.WEIGHTS / "scenes" / "base.safetensors"
    return () if all(path.exists() for path in made) else tuple(STAGES)


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("stages", nargs="*", metavar="stage", help=f"any of {', '.join(STAGES)}")
    for stage, minutes in MINUTES.items():
        ask.add_argument(f"--{stage}-minutes", type=float, default=minutes)
    args = ask.parse_args()
    if unknown := set(args.stages) - set(STAGES):
        ask.error(f"unknown stage {', '.join(sorted(unknown))}; the stages are {', '.join(STAGES)}")
    chosen = args.stages or lacking()
    for stage, train in STAGES.items():
        if stage in chosen:
            train(getattr(args, f"{stage}_minutes"))


if __name__ == "__main__":
    main()
