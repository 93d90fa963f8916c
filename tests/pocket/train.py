"""Trains the pocket experts: python tests/pocket train [stages ...] [--vae-minutes M ...]

Every stage stops after its minutes, can be interrupted and resumed (state in .pocket/), and starts from a fixed seed.
"""
import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

STAGES = ("vae", "base", "people", "animals", "things", "decoder", "export")
MINUTES = {"vae": 16.0, "base": 30.0, "decoder": 4.0, "people": 15.0, "animals": 15.0, "things": 15.0}


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("stages", nargs="*", metavar="stage", help=f"any of {', '.join(STAGES)}; default: all")
    for stage, minutes in MINUTES.items():
        ask.add_argument(f"--{stage}-minutes", type=float, default=minutes)
    args = ask.parse_args()
    unknown = set(args.stages) - set(STAGES)
    if unknown:
        ask.error(f"unknown stage {', '.join(sorted(unknown))}; the stages are {', '.join(STAGES)}")
    for stage in STAGES:
        if args.stages and stage not in args.stages:
            continue
        minutes = getattr(args, f"{stage}_minutes", None)
        if stage == "vae":
            from . import vae
            vae.train(minutes)
        elif stage == "decoder":
            from . import vae
            vae.polish(minutes)
        elif stage == "export":
            from . import export
            export.main()
        else:
            from . import diffusion
            diffusion.train(stage, minutes)


if __name__ == "__main__":
    main()
