"""Random graphs of the host's own nodes around copies of one expert give what the plain model gives, to the bit.

AFA_RANDOM_GRAPHS=300 AFA_RANDOM_SEED=1 tries that many others instead of a dozen.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, note
from hypothesis import strategies as st

from tests.support.ensembles import ensemble, random_aggregator
from tests.support.graphs import ON_LATENT, ON_MODEL, ON_PROMPTS, empty_latent, sample, self_attention_guidance
from tests.support.random_examples import examples
from tests.support.shop import Shop

# Self-attention guidance needs a larger picture than the pieces on the latent give.
MODEL_PIECES = [piece for piece in ON_MODEL if piece is not self_attention_guidance]
SAMPLERS = [
    "euler", "euler_ancestral", "euler_cfg_pp", "heun", "dpm_2", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m",
    "dpmpp_2m_sde", "dpmpp_3m_sde", "lms", "ddim", "ddpm", "uni_pc", "ipndm", "deis", "res_multistep",
]  # fmt: skip
SIDES = st.integers(8, 16).map(lambda side: 8 * side)


def pieces(known, most: int):
    return st.lists(st.sampled_from(known), max_size=most, unique=True)


GRAPHS = st.fixed_dictionaries(
    {
        "pieces": st.tuples(pieces(ON_LATENT, 1), pieces(MODEL_PIECES, 3), pieces(ON_PROMPTS, 3)).map(
            lambda chosen: [piece for part in chosen for piece in part]
        ),
        "experts": st.integers(2, 3),
        "aggregator": st.one_of(st.integers(0, 99), st.sampled_from(["block average", "noise average"])),
        "patched_before": st.booleans(),
        "family": st.sampled_from(["tiny_sd15", "tiny_sdxl"]),
        "size": st.tuples(st.integers(1, 3), SIDES, SIDES),
        "sampler": st.sampled_from(SAMPLERS),
        "scheduler": st.sampled_from(["normal", "karras", "simple", "sgm_uniform", "beta"]),
        "cfg": st.sampled_from([1.0, 3.5, 8.0]),
        "seed": st.integers(0, 2**32),
        "steps": st.integers(1, 3),
    }
)


@pytest.fixture(scope="module")
def shops(comfy_host, pack):
    return {family: Shop(comfy_host, family) for family in ("tiny_sd15", "tiny_sdxl")}


def run(shop, graph, model):
    batch, width, height = graph["size"]
    wires = replace(shop.wires(model), latent=empty_latent(shop.host, batch, width, height))
    for piece in graph["pieces"]:
        wires = piece(wires)
    widgets = {"sampler_name": graph["sampler"], "scheduler": graph["scheduler"]}
    widgets |= {name: graph[name] for name in ("cfg", "seed", "steps")}
    return sample(wires.with_widgets(**widgets))


def copies(shop, graph):
    """The ensemble; every copy with a LoRA of its own where the graph says so."""
    experts = [shop.plain, *shop.copies][: graph["experts"]]
    if graph["patched_before"]:
        experts = [shop.with_lora(expert) for expert in experts]
    aggregator = graph["aggregator"]
    if isinstance(aggregator, int):
        aggregator = random_aggregator(shop.plain, len(experts), seed=aggregator)
    return ensemble(shop.host, aggregator, *experts)


@examples(12)
@given(graph=GRAPHS)
def test_copies_of_one_expert_in_any_graph(shops, graph):
    note(", ".join(piece.__name__ for piece in graph["pieces"]))
    shop = shops[graph["family"]]
    alone = shop.with_lora(shop.plain) if graph["patched_before"] else shop.plain
    expected = run(shop, graph, alone)
    assume(torch.isfinite(expected).all())
    assert torch.equal(run(shop, graph, copies(shop, graph)), expected)


def test_a_graph_that_tells_experts_apart(shops):
    """With another expert among the copies the same graph gives another picture: the property is no tautology."""
    shop = shops["tiny_sd15"]
    graph = {"pieces": [ON_PROMPTS[0], ON_LATENT[0]], "sampler": "euler", "scheduler": "normal"}
    graph |= {"cfg": 4.0, "seed": 1, "steps": 2, "size": (1, 64, 64)}
    mixed = ensemble(shop.host, "block average", shop.plain, shop.other)
    assert not torch.allclose(run(shop, graph, mixed), run(shop, graph, shop.plain), atol=0.1)
