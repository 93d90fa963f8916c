"""Random samplings of copies of one transformer give what the plain model gives, to the bit; interrupted at random, they leave
nothing behind.

AFA_RANDOM_GRAPHS=300 AFA_RANDOM_SEED=1 tries that many others instead of a few; AFA_FAULTS=200 interrupts as often
while the host samples, too.
"""

import gc
import os
import random
import threading
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ensembles import ensemble, random_aggregator
from tests.support.faults import interrupted, interruption
from tests.support.random_examples import SEED, examples
from tests.support.transformers import FAMILIES, by_stream, conditioning, load, sample

TIMES = int(os.environ.get("AFA_FAULTS", "3"))
INTERRUPTIONS = 40
SIDES = st.integers(2, 8).map(lambda side: 2 * side)

GRAPHS = st.fixed_dictionaries(
    {
        "copies": st.integers(2, 3),
        "aggregator": st.one_of(st.integers(0, 99), st.sampled_from(["block average", "max fusion", "last block average"])),
        "size": st.tuples(st.integers(1, 2), SIDES, SIDES),
        "tokens": st.tuples(st.integers(1, 9), st.integers(1, 9)),
        "patch": st.booleans(),
        "change": st.booleans(),
        "economies": st.sampled_from([{}, {"decide_every": 2}]),
        "percents": st.sampled_from([{}, {"start_percent": 0.4}, {"end_percent": 0.6}]),
        "sampler_name": st.sampled_from(["euler", "heun", "dpmpp_2m", "res_multistep", "ipndm", "deis", "euler_ancestral"]),
        "scheduler": st.sampled_from(["simple", "beta", "normal"]),
        "cfg": st.sampled_from([1.0, 3.0]),
        "seed": st.integers(0, 2**32),
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def three(comfy_host, pack):
    """Of a family one network three times over, each with weights of its own."""
    return cache(lambda family: [load(comfy_host, f"tiny_{family}_a") for _ in range(3)])


def changed(graph, case):
    """The model with a patch on a weight, where the graph says so."""
    model = case.patcher.clone()
    if graph["change"]:
        name, weight = next((n, w) for n, w in case.network.named_parameters() if n.endswith("weight") and w.ndim == 2)
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        model.add_patches({f"diffusion_model.{name}": (0.1 * noise,)}, 1.0)
    return model


def run(host, graph, case, model):
    if graph["patch"]:
        model = model.clone()
        model.set_model_attn1_patch(lambda q, k, v, **_: {"q": q, "k": k, "v": v * 0.9})
        model.set_model_patch_replace(lambda call, extra: extra["original_block"](call), "dit", "double_block", 1)
    (batch, height, width), (one, other) = graph["size"], graph["tokens"]
    latent = torch.zeros(batch, 16, height, width)
    widgets = {name: graph[name] for name in ("sampler_name", "scheduler", "cfg", "seed")}
    texts = {"positive": conditioning(case, 1, one), "negative": conditioning(case, 2, other)}
    return sample(host, model, case, latent=latent, **texts, **widgets)


@pytest.mark.parametrize("family", FAMILIES)
@examples(3)
@given(graph=GRAPHS)
def test_copies_of_one_transformer_in_any_sampling(comfy_host, three, family, graph):
    cases = three(family)[: graph["copies"]]
    expected = run(comfy_host, graph, cases[0], changed(graph, cases[0]))
    aggregator = graph["aggregator"]
    economies = graph["economies"]
    if isinstance(aggregator, int):
        aggregator = random_aggregator(cases[0].patcher, len(cases), seed=aggregator)
    else:
        economies = {}  # a fixed rule has none
    experts = [changed(graph, case) for case in cases]
    model = ensemble(comfy_host, aggregator, *experts, **economies, **graph["percents"])
    assert torch.isfinite(expected).all()
    assert torch.equal(run(comfy_host, graph, cases[0], model), expected)


def test_interrupted_at_random_in_a_forward_pass(three):
    """At any of the moments at which the host asks; every run after it is as ever."""
    cases = three("flux")[:2]
    inputs = cases[0].inputs(size=(4, 4), batch=1)
    expected = by_stream(cases[0], inputs, experts=cases)
    dice = random.Random(SEED)
    with interrupted() as asked:
        by_stream(cases[0], inputs, experts=cases)
    for _ in range(INTERRUPTIONS):
        with interrupted(dice.randint(1, len(asked))), pytest.raises(interruption()):
            by_stream(cases[0], inputs, experts=cases)
    nothing_is_left(cases)
    assert torch.equal(by_stream(cases[0], inputs, experts=cases), expected)


def test_interrupted_at_random_while_sampling(comfy_host, three):
    cases = three("lumina")[:2]
    model = ensemble(comfy_host, random_aggregator(cases[0].patcher, 2), *(case.patcher for case in cases))
    latent = torch.zeros(1, 16, 4, 4)
    with interrupted() as asked:
        expected = sample(comfy_host, model, cases[0], latent=latent)
    dice = random.Random(SEED)
    for _ in range(TIMES):
        with interrupted(dice.randint(1, len(asked))), pytest.raises(interruption()):
            sample(comfy_host, model, cases[0], latent=latent)
        nothing_is_left(cases)
        assert torch.equal(sample(comfy_host, model, cases[0], latent=latent), expected)


def nothing_is_left(cases) -> None:
    gc.collect()
    assert not [thread.name for thread in threading.enumerate() if thread.name == "AFA expert"]
    for case in cases:
        assert not [name for name, m in case.network.named_modules() if m._forward_hooks or m._forward_pre_hooks]
