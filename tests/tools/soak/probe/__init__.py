"""A custom node package for the soak alone, without a node: says what the server's process holds."""

import gc
import sys
import threading

import comfy.model_management
import torch
from aiohttp import web
from comfy.model_patcher import ModelPatcher
from server import PromptServer

NODE_CLASS_MAPPINGS = {}


@PromptServer.instance.routes.get("/soak")
async def holdings(request: web.Request) -> web.Response:
    gc.collect()
    things = gc.get_objects()
    modules = [thing for thing in things if issubclass(type(thing), torch.nn.Module)]
    storages = {}
    for thing in things:
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return web.json_response(
        {
            "tensors": sum(storages.values()),
            "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules),
            "networks": len(modules),
            "patchers": sum(issubclass(type(thing), ModelPatcher) for thing in things),
            "loaded": len(comfy.model_management.current_loaded_models),
            "threads": threading.active_count(),
            "blocks": sys.getallocatedblocks(),
        }
    )
