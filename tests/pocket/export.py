"""Writes the committed weights from what training left in .pocket/: vae, text (cut token table), base, three experts."""
import torch
from safetensors.torch import load_file, save_file

from . import assemble, common, diffusion, packing, text, unet, vae


def _save(tensors, name):
    common.WEIGHTS.mkdir(exist_ok=True)
    path = common.WEIGHTS / f"{name}.safetensors"
    part = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in sorted(tensors.items())}, part)
    part.replace(path)
    print(f"{path.relative_to(common.REPO)}: {path.stat().st_size / 1e6:.2f} MB")


def _unet(stage):
    """The stage's averaged weights, else the base's, else (nothing trained yet) the initial ones."""
    for name in (stage, "base"):
        if diffusion.weights_path(name).exists():
            if name != stage:
                print(f"{stage}: not trained yet, the base's weights stand in")
            return torch.load(diffusion.weights_path(name), weights_only=True)
    print(f"{stage}: nothing trained yet, initial weights stand in")
    return unet.build().state_dict()


def main():
    trained = common.WORK / "vae.pt"
    net = vae.build()
    if trained.exists():
        net.load_state_dict(torch.load(trained, weights_only=True))
    _save({k: v.detach().half() for k, v in net.state_dict().items()}, "vae")
    encoder = text.TextEncoder()
    if (common.WORK / "text.pt").exists():
        encoder.load_state_dict(torch.load(common.WORK / "text.pt", weights_only=True))
    _save({k: v.detach() if k == "vocabulary" else v.detach().half() for k, v in encoder.state_dict().items()}, "text_encoder")
    _save({k: v.half() for k, v in _unet("base").items()}, "base")
    base = load_file(common.WEIGHTS / "base.safetensors")
    for domain in common.DOMAINS:
        _save(packing.pack(_unet(domain), base), f"expert_{domain}")
    total = sum(p.stat().st_size for p in assemble.sources())
    print(f"in all {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
