"""AFA Ensemble: several checkpoints, fused at every denoising step. Hands ComfyUI the nodes and the web directory."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./js"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
