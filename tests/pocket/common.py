"""Paths, the host on sys.path, and atomic files: what every stage needs."""
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
WORK = REPO / ".pocket"          # caches and resumable state, ignored by git
WEIGHTS = HERE / "weights"       # committed, float16
DOMAINS = ("people", "animals", "things")
HANDS = ("noto", "twemoji", "fluent")   # what the autoencoder sees
HANDS_TRAINED = ("twemoji",)            # what the base of single pictures is trained on
SIZE = 64                        # picture side in pixels; latents are [4, 8, 8]
SEED = 20260101


def use_host():
    """Put ComfyUI on sys.path (COMFYUI_PATH, else a tree under .host) and pin it to the CPU."""
    host = os.environ.get("COMFYUI_PATH")
    if not host:
        found = sorted((REPO / ".host").glob("ComfyUI-*"))
        if not found:
            raise SystemExit("Set COMFYUI_PATH to a ComfyUI folder: the small checkpoints use the host's own model classes.")
        host = str(found[0])
    if host not in sys.path:
        sys.path.insert(0, host)
    argv, sys.argv = sys.argv, sys.argv[:1]   # the host parses sys.argv when it is imported
    try:
        from comfy.cli_args import args
        args.cpu = True
    finally:
        sys.argv = argv
    return host


def save_atomic(obj, path):
    """torch.save that never leaves a half-written file behind."""
    import torch
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    torch.save(obj, part)
    os.replace(part, path)
