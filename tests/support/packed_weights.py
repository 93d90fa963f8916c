"""A checkpoint as packs for GGUF files load it: packed weights that are unpacked at every use, LoRAs applied there.

The weights are a subclass of Tensor that reports the shape it will have, and whose clones are itself; a patcher of its
own leaves LoRAs with the packed weight.
"""

from __future__ import annotations

import comfy.lora
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher


class Packed(torch.Tensor):
    """Rows of int8 with a float16 scale at the end of each; `patches` are applied when they are unpacked."""

    @staticmethod
    def of(weight: torch.Tensor) -> Packed:
        rows = weight.float().flatten(1)
        scale = (rows.abs().amax(1, keepdim=True) / 127).half()
        numbers = (rows / scale.float()).round().clamp(-127, 127).to(torch.int8)
        packed = torch.cat([numbers.view(torch.uint8), scale.view(torch.uint8)], dim=1).as_subclass(Packed)
        packed.unpacked_shape, packed.patches = weight.shape, []
        return packed

    def to(self, *args, **kwargs):
        moved = super().to(*args, **kwargs)
        moved.unpacked_shape, moved.patches = self.shape, list(getattr(self, "patches", []))
        return moved

    def clone(self, *_, **__):
        return self

    def detach(self):
        return self

    def new_empty(self, size, *args, **kwargs):
        made = super().new_empty(size, *args, **kwargs).as_subclass(Packed)
        made.unpacked_shape, made.patches = torch.Size(size), []
        return made

    @property
    def shape(self):
        return getattr(self, "unpacked_shape", self.size())

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        plain = self.as_subclass(torch.Tensor)
        numbers, scale = plain[:, :-2].contiguous().view(torch.int8), plain[:, -2:].contiguous().view(torch.float16)
        weight = (numbers.float() * scale.float()).view(self.shape).to(dtype)
        for patches, key in self.patches:
            weight = comfy.lora.calculate_weight(patches, weight, key)
        return weight


class PackedLayer(torch.nn.Module):
    comfy_cast_weights = True

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        if not isinstance(state_dict.get(f"{prefix}weight"), Packed):
            return super()._load_from_state_dict(state_dict, prefix, *rest)
        self.weight = torch.nn.Parameter(state_dict[f"{prefix}weight"], requires_grad=False)
        if self.bias is not None:
            self.bias = torch.nn.Parameter(state_dict[f"{prefix}bias"], requires_grad=False)

    def forward_comfy_cast_weights(self, x, *rest):
        if not isinstance(self.weight, Packed):
            return super().forward_comfy_cast_weights(x, *rest)
        return self.on(x, self.weight.unpacked(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class Operations(comfy.ops.manual_cast):
    class Linear(PackedLayer, comfy.ops.manual_cast.Linear):
        def on(self, x, weight, bias):
            return torch.nn.functional.linear(x, weight, bias)

    class Conv2d(PackedLayer, comfy.ops.manual_cast.Conv2d):
        def on(self, x, weight, bias):
            return self._conv_forward(x, weight, bias)


class PackedPatcher(ModelPatcher):
    def patch_weight_to_device(self, key, device_to=None, inplace_update=False):
        weight = comfy.utils.get_attr(self.model, key)
        if key not in self.patches or not isinstance(weight, Packed):
            return super().patch_weight_to_device(key, device_to, inplace_update)
        weight = weight.to(device_to)
        weight.patches = [(self.patches[key], key)]
        comfy.utils.set_attr_param(self.model, key, weight)

    def unpatch_model(self, device_to=None, unpatch_weights=True):
        if unpatch_weights:
            for weight in self.model.parameters():
                if isinstance(weight, Packed):
                    weight.patches = []
        return super().unpatch_model(device_to, unpatch_weights)

    def load(self, *args, force_patch_weights=False, **kwargs):
        super().load(*args, force_patch_weights=True, **kwargs)


def load_packed(path: str) -> ModelPatcher:
    """The U-Net of a checkpoint, its larger weights packed."""
    prefix = "model.diffusion_model."
    state = {k[len(prefix) :]: v for k, v in comfy.utils.load_torch_file(path).items() if k.startswith(prefix)}
    state = {k: Packed.of(v) if v.ndim > 1 and v[0].numel() > 64 else v for k, v in state.items()}
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model_state_dict(state, {"custom_operations": Operations}).clone()
    model.__class__ = PackedPatcher
    return model
