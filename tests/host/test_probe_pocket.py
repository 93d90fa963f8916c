"""The probe on really trained experts: each knows a domain of its own, and the verdict must say so."""

import json

import pytest

from tests.pocket.scenes import checkpoints
from tests.support.comfy.bootstrap import REPOSITORY


@pytest.fixture(scope="module")
def report(comfy_host, pack):
    """Of the scenes' near experts, on 30 held-out emoji, 10 a domain."""
    loaded = checkpoints.load(comfy_host, checkpoints.expert_names("near"))
    sockets = {f"model_{i}": model for i, (model, _, _) in enumerate(loaded, start=1)}
    folder = str(REPOSITORY / "tests" / "emoji")
    _, clip, vae = loaded[0]
    widgets = {"prompt_folder": folder, "resolution": 64, "pictures": 30, "noises": 2}
    return json.loads(comfy_host.call("AFAProbe", clip=clip, vae=vae, **sockets, **widgets)[2])


def test_the_trained_experts_are_worth_ensembling(report):
    assert report["verdict"] == "worth it", report["sentence"]
    assert report["gain"]["low"] > 0.01
    assert report["kappa"] > 0.1
    assert report["diversity"] < 0.995


def test_each_domain_is_known_best_by_its_own_expert(report):
    best = {row["domain"]: row["best"] for row in report["by_domain"]}
    assert best == {"people": "model_1", "animals": "model_2", "things": "model_3"}
