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
    to, back = ([size for size in seen.copies[way] if len(size) == 4] for way in (DEVICES[:2], DEVICES[1::-1]))
    assert len(to) == 1 + points - 1  # the latent, and what was fused
    assert len(back) == points
    assert sum(map(len, seen.copies.values())) - len(to) - len(back) < 8  # timesteps, texts, embeddings


def test_a_clone_for_another_gpu_has_its_own_networks_and_samples_alike(checkpoint, encode, sample, comfy_host, pack):
    model, clip, _ = checkpoint("tiny_sd15_a")
    if not hasattr(model, "deepclone_multigpu"):
        pytest.skip("this host knows one GPU only")
    other = checkpoint("tiny_sd15_b")[0]
    main = ensemble(comfy_host, random_aggregator(model, 2), model, other)
    texts = encode(clip, "a cat"), encode(clip, "")
    expected = sample(main, *texts)
    clone = main.deepclone_multigpu(new_load_device=main.load_device)
    ours, theirs = ({id(p.model) for p in (each, *each.get_additional_models())} for each in (main, clone))
    assert len(ours) == len(theirs) == 3 and not ours & theirs
    assert torch.equal(sample(clone, *texts), expected)
