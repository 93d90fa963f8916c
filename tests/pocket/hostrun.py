"""The pocket checkpoints through the real host, in process on the CPU: load, encode, KSampler, decode."""
import torch

from . import assemble, common, unet


def start(folder=None):
    """Import the host with the family registered and the checkpoints' folder known. -> the host's `nodes` module."""
    unet.family()
    import folder_paths

    import nodes
    folder = folder or common.WORK / "checkpoints"
    assemble.ensure(folder)
    folder_paths.add_model_folder_path("checkpoints", str(folder))
    return nodes


def load(nodes, name):
    with torch.inference_mode():
        return nodes.CheckpointLoaderSimple().load_checkpoint(f"{name}.safetensors")[:3]


def sample(nodes, parts, prompt, seed=1, steps=20, scale=3.0, sampler="dpmpp_2m", scheduler="normal"):
    """-> picture [64, 64, 3], float 0..1"""
    model, clip, vae = parts
    with torch.inference_mode():
        positive = nodes.CLIPTextEncode().encode(clip, prompt)[0]
        negative = nodes.CLIPTextEncode().encode(clip, "")[0]
        latent = nodes.EmptyLatentImage().generate(common.SIZE, common.SIZE, 1)[0]
        out = nodes.KSampler().sample(model, seed, steps, scale, sampler, scheduler, positive, negative, latent, 1.0)[0]
        return nodes.VAEDecode().decode(vae, out)[0][0]
