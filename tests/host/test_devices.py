"""Experts on different GPUs, on fake tensors: each runs on its own, and features cross at fusion points only."""

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.bench.gpu_habits import SHALLOW, fake_ensembles, step
from tests.support.ensembles import ensemble, random_aggregator
from tests.support.fake_gpu import counted, fake_gpu
from tests.support.graphs import sample as wired_sample
from tests.support.shop import Shop

DEVICES = ("cuda:0", "cuda:1", "cuda:0")


class Crossings(TorchDispatchMode):
    """What is computed on each GPU, and copies from one to the other: the sizes by (from, to).

    PyTorch's fake tensors themselves refuse an operation on tensors of two devices.
    """

    def __init__(self):
        super().__init__()
        self.computed: Counter[str] = Counter()
        self.copies: dict[tuple[str, str], list[torch.Size]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        found = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_cuda]
        given = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor) and leaf.is_cuda]
        if found and given and (way := (str(given[0].device), str(found[0].device))) and way[0] != way[1]:
            self.copies.setdefault(way, []).append(found[0].shape)
        elif found and "conv2d" in str(func):
            self.computed[str(found[0].device)] += 1
        return result


@torch.inference_mode()
def test_an_expert_runs_on_its_own_device(comfy_host, pack):
    with fake_ensembles(SHALLOW, {"plain": {}}, DEVICES) as (experts, ensembles):
        points = len(experts[0].points)
        with fake_gpu(), counted(), Crossings() as seen:
            step(ensembles["plain"], None, 3.0)
    one = sum(isinstance(module, torch.nn.Conv2d) for module in experts[0].patcher.model.diffusion_model.modules())
    assert seen.computed["cuda:1"] == one
    to, back = (
        [size for size in seen.copies[way] if len(size) == 4]
        for way in ((DEVICES[0], DEVICES[1]), (DEVICES[1], DEVICES[0]))
    )
    assert len(to) == 1 + points - 1  # the latent, and what was fused
    assert len(back) == points
    assert sum(map(len, seen.copies.values())) - len(to) - len(back) < 8  # timesteps, texts, embeddings


def clone_for_another_gpu(main):
    """By the host's own means; the device stays, since there is one."""
    if not hasattr(main, "deepclone_multigpu"):
        pytest.skip("this host knows one GPU only")
    return main.deepclone_multigpu(new_load_device=main.load_device)


def modules(main) -> set[int]:
    return {id(patcher.model) for patcher in (main, *main.get_additional_models())}


def test_a_clone_for_another_gpu_has_its_own_networks_and_samples_alike(checkpoint, encode, sample, comfy_host, pack):
    model, clip, _ = checkpoint("tiny_sd15_a")
    other = checkpoint("tiny_sd15_b")[0]
    main = ensemble(comfy_host, random_aggregator(model, 2), model, other)
    texts = encode(clip, "a cat"), encode(clip, "")
    expected = sample(main, *texts)
    clone = clone_for_another_gpu(main)
    assert len(modules(main)) == len(modules(clone)) == 3 and not modules(main) & modules(clone)
    assert torch.equal(sample(clone, *texts), expected)


def test_loras_beside_a_network_are_on_every_gpu(comfy_host, pack):
    shop = Shop(comfy_host)
    loras = [shop.with_lora(shop.plain, strength) for strength in (0.8, -0.5)]
    main = ensemble(comfy_host, random_aggregator(shop.plain, 2), *loras)
    expected = wired_sample(shop.wires(main))
    clone = clone_for_another_gpu(main)
    assert len(modules(main)) == len(modules(clone)) == 4 and not modules(main) & modules(clone)
    for each in (clone, main, clone):
        assert torch.equal(wired_sample(shop.wires(each)), expected)
    networks = [patcher.model for patcher in (main, clone)]
    main.inject_model()
    clone.inject_model()
    main.eject_model()
    assert [any(module._forward_hooks for module in network.modules()) for network in networks] == [False, True]
    clone.eject_model()
