"""The checks of `python -m tests.gpu`. Each is given the host, and gives whether it passed and what was found."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import comfy.model_management
import torch

from tests.bench.gpu_habits import SHALLOW
from tests.bench.models import DTYPE, SD15, random_aggregator, random_unet
from tests.bench.step import call
from tests.golden.goldweights import materialise
from tests.support import ensembles, transformers
from tests.support.ensembles import ensemble
from tests.support.golden_cases import Case, denoised, euler_step, noisy_latent
from tests.support.graphs import control_net, freeu_v2, lora, sample
from tests.support.node_trainer import WHOLE, Trainer, twelve_pictures
from tests.support.shop import Shop

Found = tuple[bool, str]
DEVICE = comfy.model_management.get_torch_device()
GOLDEN_TOLERANCE = 5e-5 if DEVICE.type == "cpu" else 5e-4
"""A GPU sums in another order."""
ROUNDS = 3
MOST = 3.0
"""Times what the experts take alone: a step that takes more waits for something."""


def device_name() -> str:
    return comfy.model_management.get_torch_device_name(DEVICE)


def goldens(host) -> Found:
    """The authors' numbers, through the nodes and a sampler's step."""
    worst = torch.tensor(0.0)
    for name in ("case_b", "case_e"):
        case = Case(name)
        materialise(name, str(host.base / "models" / "afa" / name))
        experts = [
            host.call("CheckpointLoaderSimple", ckpt_name=f"golden_{number}.safetensors")[0] for number in case.experts
        ]
        model = ensemble(host, host.call("LoadAFAAggregator", aggregator_name=name)[0], *experts)
        first = slice(0, 1)
        found = euler_step(host, model, case, case.texts(first), case.texts(first), cfg=1.0, samples=first)
        sigma, _ = noisy_latent(case, model)
        expected = denoised(case, model, case["sample"])[first]
        worst = torch.maximum(worst, (found - expected).abs().max().cpu() / sigma[0].cpu())  # NaN stays NaN
    return worst.item() <= GOLDEN_TOLERANCE, f"{worst:.1e} from the authors' predictions, at most {GOLDEN_TOLERANCE:.0e}"


def neutral(host) -> Found:
    """Two copies of one checkpoint are that checkpoint, to the bit."""
    return _differences(host, [lambda wires: wires])


def parity(host) -> Found:
    """The same with other nodes on the MODEL."""
    return _differences(host, [freeu_v2, control_net, lora])


def _differences(host, pieces) -> Found:
    shop = Shop(host)
    found = [
        (sample(piece(shop.wires(shop.twins()))) - sample(piece(shop.wires(shop.plain)))).abs().max().item()
        for piece in pieces
    ]
    return not any(found), f"{max(found):.1e} from the plain model, at most 0"


def threads(host) -> Found:
    """Two copies of a transformer, whose blocks run in threads of their own, are that transformer, to the bit."""
    case, copy = (transformers.load(host, "tiny_flux_a") for _ in range(2))
    both = ensemble(host, ensembles.random_aggregator(case.patcher, 2), case.patcher, copy.patcher)
    plain = transformers.sample(host, case.patcher, case)
    found = (transformers.sample(host, both, case) - plain).abs().max().item()
    return not found, f"{found:.1e} from the plain model, at most 0"


def training(host) -> Found:
    """Four steps of the trainer node."""
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        aggregator = Trainer(host, twelve_pictures(Path(folder))).run("gpu_check", **WHOLE)
        seconds = time.perf_counter() - started
    learnt = [tensor for key, tensor in aggregator.state.items() if key.endswith("conv_out.weight")]
    passed = all(tensor.isfinite().all() for tensor in aggregator.state.values()) and any(map(torch.any, learnt))
    return passed, f"4 steps in {seconds:.1f} s, weights {'finite and changed' if passed else 'not finite, or not changed'}"


def step(host) -> Found:
    """What a step of two experts costs beside the experts' own. On a CPU small networks stand for SD1.5's."""
    from afa_core.host.experts.experts import Expert
    from afa_core.host.sampling.ensemble import make_ensemble

    family, side = (SHALLOW, 16) if DEVICE.type == "cpu" else (SD15, 64)
    experts = [Expert(random_unet(seed, family), f"model_{seed + 1}") for seed in range(2)]
    main = make_ensemble(random_aggregator(experts), experts)
    comfy.model_management.load_models_gpu([main, *main.get_additional_models()], force_full_load=True)
    with torch.inference_mode():
        alone = sum(_seconds(call(expert.patcher, side)) for expert in experts)
        together = _seconds(call(main, side, record=True))
    figures = f"{together * 1000:.0f} ms for two experts, {str(DTYPE).removeprefix('torch.')}, latent {side}x{side}, batch 2; {together / alone:.2f} of the experts alone"
    return together < MOST * alone, figures


def _seconds(run) -> float:
    """Of one call, the median; the first is not counted."""
    seconds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        run()
        if DEVICE.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


CHECKS = (goldens, neutral, parity, threads, training, step)
