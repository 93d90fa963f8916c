"""Toys of families that ComfyUI 0.3.75 does not have: Anima and Krea 2."""

from typing import ClassVar

import comfy.ldm.anima.model as anima
import comfy.model_base
import comfy.supported_models as host

from . import TinyCosmos


class NarrowAnima(anima.Anima):
    """With a narrow adapter: the host's has 100M parameters, whatever the width of the blocks."""

    def __init__(self, *args, **kwargs):
        super(anima.Anima, self).__init__(*args, **kwargs)
        shared = {name: kwargs.get(name) for name in ("device", "dtype", "operations")}
        self.llm_adapter = anima.LLMAdapter(48, 48, 48, num_layers=1, num_heads=2, **shared)


class NarrowAnimaModel(comfy.model_base.Anima):
    def __init__(self, model_config, device=None):
        kind = comfy.model_base.ModelType.FLOW
        comfy.model_base.BaseModel.__init__(self, model_config, kind, device=device, unet_model=NarrowAnima)


class TinyAnima(host.Anima):
    unet_config: ClassVar = {"image_model": "anima", "in_channels": 16, "model_channels": 64}
    unet_extra_config: ClassVar = TinyCosmos.unet_extra_config
    network = f"{__name__}.NarrowAnima"
    shape: ClassVar = TinyCosmos.shape

    def get_model(self, state_dict, prefix="", device=None):
        return NarrowAnimaModel(self, device=device)


class TinyKrea2(host.Krea2):
    """Two heads of 128, by which the host counts; text of 3 layers of 16."""

    unet_config: ClassVar = {"image_model": "krea2", "features": 256}
    unet_extra_config: ClassVar = {"multiplier": 1, "txtheads": 2, "txtkvheads": 2}
    network = "comfy.ldm.krea2.model.SingleStreamDiT"
    shape: ClassVar = {
        "channels": 16, "patch": 2, "layers": 5, "heads": 2, "kvheads": 1, "txtlayers": 3, "txtdim": 16,
    }  # fmt: skip
