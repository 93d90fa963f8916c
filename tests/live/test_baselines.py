"""The other methods and the scorers on a live server: as graphs over HTTP, killed and started again."""

import json
import time

import pytest
from safetensors.torch import save_file

from tests.support.comfy.api import node
from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.checkpoints import ensure_checkpoints
from tests.support.comfy.server import Failure, LiveServer
from tests.support.small_clip import small_clip


def loaders():
    return {
        "a": node("CheckpointLoaderSimple", ckpt_name="tiny_sd15_a.safetensors"),
        "b": node("CheckpointLoaderSimple", ckpt_name="tiny_sd15_b.safetensors"),
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    }


def painted(model, prefix):
    """Nodes that paint with a model and save the picture as node `save`."""
    sampler = {"seed": 1, "steps": 2, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return {
        "yes": node("CLIPTextEncode", clip=["a", 1], text="a cat"),
        "no": node("CLIPTextEncode", clip=["a", 1], text=""),
        "sampler": node("KSampler", model=model, positive=["yes", 0], negative=["no", 0], latent_image=["empty", 0], **sampler),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["a", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix=prefix),
    }  # fmt: skip


def test_merges_and_magic_fusion_paint_by_the_plain_sampler(live_server):
    models = {"model_1": ["a", 0], "model_2": ["b", 0]}
    merge = loaders() | {"merge": node("AFAMergeModels", **models, preset="GRAD_V", block_weights="M00 1, 0")}
    fusion = {"rule": node("AFATrainingFreeFusion", method="magic fusion", temperatures="1, 2")}
    magic = loaders() | fusion | {"ensemble": node("AFAEnsembleModel", aggregator=["rule", 0], **models)}
    pictures = [
        live_server.images(live_server.run(loaders() | painted(["a", 0], "alone")), "save"),
        live_server.images(live_server.run(merge | painted(["merge", 0], "merge")), "save"),
        live_server.images(live_server.run(magic | painted(["ensemble", 0], "magic")), "save"),
    ]
    assert len({picture for (picture,) in pictures}) == 3


def test_a_missing_scorer_is_told_at_its_node(live_server):
    graph = loaders() | painted(["a", 0], "scored")
    graph["score"] = node("AFAScoreImages", images=["decode", 0], prompt="a cat", scorer="PickScore")
    graph["show"] = node("PreviewAny", source=["score", 0])
    with pytest.raises(
        Failure, match="PickScore needs a file .* save it as models/clip_vision/PickScore_v1"
    ) as failure:
        live_server.run(graph)
    assert failure.value.node_id == "score"


def test_a_search_goes_on_after_a_crash(tmp_path):
    """Killed while it searches, the server leaves a whole file; the same graph then tries only what is left."""
    ensure_checkpoints()
    base = make_base(tmp_path)
    (base / "models" / "clip_vision").mkdir(exist_ok=True)
    clip = base / "models" / "clip_vision" / "clip-vit-large-patch14.safetensors"
    save_file(small_clip("quick_gelu").state_dict(), clip)
    budget = 9
    graph = loaders() | {
        "search": node(
            "AFAAutoMerge", model_1=["a", 0], model_2=["b", 0], clip=["a", 1], vae=["a", 2], latent_image=["empty", 0],
            prompts="a cat\na red dog", negative="", scorer="CLIP-T", method="CMA-ES", budget=budget, save_as="crash",
            steps=2, cfg=3.0, sampler_name="euler", scheduler="normal", seed=1,
        ),
        "show": node("PreviewAny", source=["search", 1]),
    }  # fmt: skip

    def tried():
        (file,) = (base / "output" / "afa_merges").glob("*.json")
        return json.loads(file.read_text())["tried"]

    server = LiveServer(base)
    with server:
        server.queue(graph)
        deadline = time.monotonic() + 120
        while not list((base / "output").glob("afa_merges/*.json")) or len(tried()) < 3:
            assert time.monotonic() < deadline, server.log_tail()
            time.sleep(0.05)
        server.kill()
        before = tried()
        assert 3 <= len(before) < budget
        server.start()
        (report,) = server.run(graph)["outputs"]["show"]["text"]
    after = tried()
    assert after[: len(before)] == before
    assert len(after) == budget
    scores = [sum(entry["scores"]) / 2 for entry in after]
    assert f"CLIP-T {max(scores):.4f} after {budget} merges; equal shares {scores[0]:.4f}" in report
