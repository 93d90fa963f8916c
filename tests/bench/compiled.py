"""Kernels of an aggregator that inductor compiled, counted in the code it writes for a CPU. Nothing is built or measured."""

from __future__ import annotations

import re
from collections import Counter
from unittest.mock import patch

import torch
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.utils import run_and_get_code

from .models import PUBLISHED, SD15, network

LAUNCH = re.compile(r"^ +(?:\w+ = )?(extern_kernels\.|torch\.ops\.aten\.|cpp_fused)\w", re.MULTILINE)
SIDE = 16


@torch.inference_mode()
def compiled_kernels(experts: int) -> Counter[str]:
    """Of all fusion points of SD1.5 in one evaluation, without recording: generated kernels and external ones."""
    import comfy.ops
    from comfy.model_patcher import ModelPatcher

    from afa_core.aggregator.sabw import Aggregator
    from afa_core.fusion.compiled import CompiledAttend
    from afa_core.host.experts.experts import Expert
    from tests.support.ensembles import config_for

    cpu = torch.device("cpu")
    expert = Expert(ModelPatcher(network(SD15, "meta"), cpu, cpu), "model")
    config = config_for(expert.patcher, experts, **PUBLISHED)
    aggregator = Aggregator(config, comfy.ops.disable_weight_init, dtype=torch.bfloat16, device="meta").to_empty(device="cpu")
    inputs = aggregator(*(torch.zeros(2, *size).bfloat16() for size in ((config.time_width,), (77, config.text_width))))
    attend, shapes, found = CompiledAttend(), {}, Counter()
    torch._dynamo.reset()
    for point in expert.points:
        shape = point.channels, point.stride
        if shape not in shapes:
            features = [torch.zeros(2, point.channels, *2 * [SIDE // point.stride]).bfloat16() for _ in range(experts)]
            given = aggregator, point, features, inputs[point.index]
            # What is built in place of each kernel does nothing: a C++ compiler would take a minute for every shape.
            with patch.object(AsyncCompile, "cpp_pybinding", lambda *_, **__: lambda *_: None):
                _, (code, *_) = run_and_get_code(attend, *given)
            shapes[shape] = Counter(
                "generated" if kind.startswith("cpp") else "external" for kind in LAUNCH.findall(code)
            )
        found += shapes[shape]
    return found
