"""The probe on really trained experts: each knows a domain of its own, and the verdict must say so."""

import json

import pytest

from tests.pocket import assemble
from tests.support.comfy.bootstrap import REPOSITORY


@pytest.fixture(scope="module")
def pocket(comfy_host, pack):
    """pocket(name) -> (model, clip, vae)."""
    assemble.ensure(comfy_host.base / "models" / "checkpoints")
    return lambda name: comfy_host.call("CheckpointLoaderSimple", ckpt_name=f"pocket_{name}.safetensors")[:3]


@pytest.fixture(scope="module")
def report(comfy_host, pocket):
    """On 60 held-out emoji, 20 a domain."""
    domains = ("people", "animals", "things")
    loaded = [pocket(domain) for domain in domains]
    sockets = {f"model_{i}": model for i, (model, _, _) in enumerate(loaded, start=1)}
    folder = str(REPOSITORY / "tests" / "emoji")
    _, clip, vae = loaded[0]
    widgets = {"prompt_folder": folder, "resolution": 64, "pictures": 60, "noises": 4}
    return json.loads(comfy_host.call("AFAProbe", clip=clip, vae=vae, **sockets, **widgets)[2])


def test_the_pocket_experts_are_worth_ensembling(report):
    assert report["verdict"] == "worth it", report["sentence"]
    assert report["gain"]["low"] > 0.01
    assert report["kappa"] > 0.1
    assert report["diversity"] < 0.995


def test_each_domain_is_known_best_by_its_own_expert(report):
    best = {row["domain"]: row["best"] for row in report["by_domain"]}
    assert best == {"people": "model_1", "animals": "model_2", "things": "model_3"}
