"""Our nodes in a running ComfyUI, as the front end asks for them: results, and errors at the node that has them."""

import io
import shutil

import pytest
from PIL import Image

from afa_core.aggregator.config import AggregatorConfig
from afa_core.aggregator.file import save_aggregator
from tests.support.aggregators import random_aggregator, write_authors_layout
from tests.support.comfy.api import node
from tests.support.comfy.server import Failure

TOYS = ["tiny_sd15_a.safetensors", "tiny_sd15_b.safetensors"]
CONFIG = AggregatorConfig("SD1.x", (*[64] * 24, 4), 2, text_width=32, time_width=256, hidden_size=64, num_layers=1)


@pytest.fixture
def place(live_server):
    """place(name, seed, **fields) puts an aggregator for two toys into models/afa, ours or (no suffix) the authors'."""
    made = []

    def put(name, seed=0, config=CONFIG, **fields):
        path = live_server.base / "models" / "afa" / name
        made.append(path)
        aggregator = random_aggregator(config, seed, **fields)
        if path.suffix:
            save_aggregator(aggregator, path)
        else:
            write_authors_layout(aggregator, path)
        return path

    yield put
    for path in made:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def graph(aggregator, checkpoints=TOYS, steps=2, **more):
    """An ensemble in API format: "e" is the ensemble, "k" the sampler, "s" saves the picture; `more` adds or replaces."""
    loaders = {f"c{i}": node("CheckpointLoaderSimple", ckpt_name=name) for i, name in enumerate(checkpoints, start=1)}
    models = {f"model_{i}": [f"c{i}", 0] for i in range(1, len(checkpoints) + 1)}
    clips = {f"clip_{i}": [f"c{i}", 1] for i in range(1, len(checkpoints) + 1)}
    sampling = {"steps": steps, "seed": 1, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    wires = {"model": ["e", 0], "positive": ["p", 0], "negative": ["n", 0], "latent_image": ["l", 0]}
    return {
        **loaders,
        "a": aggregator,
        "e": node("AFAEnsembleModel", aggregator=["a", 0], **models),
        "t": node("AFAEnsembleCLIP", **clips),
        "p": node("CLIPTextEncode", clip=["t", 0], text="a cat"),
        "n": node("CLIPTextEncode", clip=["t", 0], text=""),
        "l": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "k": node("KSampler", **sampling, **wires),
        "d": node("VAEDecode", samples=["k", 0], vae=["c1", 2]),
        "s": node("SaveImage", images=["d", 0], filename_prefix="live"),
        **more,
    }


def loader(name):
    return node("LoadAFAAggregator", aggregator_name=name)


def block_average(**widgets):
    return node("AFATrainingFreeFusion", method="block average", **widgets)


@pytest.fixture
def picture(live_server):
    """picture(graph) -> the pixels that node "s" saves; its files hold the graph as well."""

    def pixels(prompt):
        (file,) = live_server.images(live_server.run(prompt), "s")
        return Image.open(io.BytesIO(file)).tobytes()

    return pixels


@pytest.fixture
def failure(live_server):
    """failure(graph) -> the Failure that a graph ends in; the server is ready for the next one."""

    def end(prompt):
        with pytest.raises(Failure) as caught:
            live_server.run(prompt)
        return caught.value

    return end


# ---- what runs ----


def test_a_file_and_the_authors_folder_paint_alike(picture, place):
    place("live.safetensors")
    place("live_authors")
    assert picture(graph(loader("live.safetensors"))) == picture(graph(loader("live_authors")))


def test_a_file_written_again_is_read_again(picture, place):
    """The host keeps what a node gave as long as its inputs are the same; the file's content is one of them."""
    place("live.safetensors", seed=1)
    first = picture(graph(loader("live.safetensors")))
    place("live.safetensors", seed=2)
    second = picture(graph(loader("live.safetensors")))
    place("live.safetensors", seed=1)
    assert second != first
    assert picture(graph(loader("live.safetensors"))) == first


def test_a_new_file_is_in_the_list_without_a_restart(live_server, place):
    def listed():
        spec = live_server.get("/object_info/LoadAFAAggregator")["LoadAFAAggregator"]["input"]["required"]
        return spec["aggregator_name"][1]["options"]

    assert "new.safetensors" not in listed()
    place("new.safetensors")
    place("new_authors")
    assert {"new.safetensors", "new_authors"} <= set(listed())


@pytest.mark.parametrize("method", ["block average", "noise average", "last block average"])
def test_training_free_fusions(picture, method):
    equal = picture(graph(node("AFATrainingFreeFusion", method=method)))
    assert picture(graph(node("AFATrainingFreeFusion", method=method, weights="1, 1"))) == equal
    assert picture(graph(node("AFATrainingFreeFusion", method=method, weights="1, 3"))) != equal


def test_outside_its_range_the_first_model_runs_alone(picture):
    models = {"model_1": ["c1", 0], "model_2": ["c2", 0]}
    never = node("AFAEnsembleModel", aggregator=["a", 0], start_percent=1.0, end_percent=1.0, **models)
    single = graph(block_average())
    single["k"]["inputs"]["model"] = ["c1", 0]
    assert picture(graph(block_average(), e=never)) == picture(single)


def test_blended_prompts(picture):
    blend = node(
        "AFABlendConditioning", conditioning_to=["p", 0], conditioning_from=["n", 0], method="average",
        conditioning_to_strength=1.0,
    )  # fmt: skip
    prompt = graph(block_average(), b=blend)
    prompt["k"]["inputs"]["positive"] = ["b", 0]
    assert picture(prompt) == picture(graph(block_average()))


def test_routing_maps_after_the_sampler(live_server, place):
    place("live.safetensors")
    maps = node("AFARoutingMaps", routing=["e", 1], samples=["k", 0], image=["d", 0])
    prompt = graph(loader("live.safetensors"), m=maps, v=node("PreviewImage", images=["m", 0]))
    history = live_server.run(prompt)
    assert live_server.images(history, "v")
    assert history["outputs"]["m"]["afa_routing"]


@pytest.mark.parametrize("economies", [{}, {"skip_below": 0.6, "decide_every": 2}])
def test_an_ensemble_by_its_file(live_server, picture, place, checkpoint, economies):
    """The loader's graph paints what the wired one paints."""
    from afa_core.host.experts.checkpoints import model_identity

    experts = [
        {"file": name, "sha256": model_identity(checkpoint(name.removesuffix(".safetensors"))[0]).digests[0]}
        for name in TOYS
    ]
    place("whole.safetensors", experts=experts)
    whole = graph(loader("whole.safetensors"), e=node("LoadAFAEnsemble", aggregator_name="whole.safetensors"))
    whole["p"]["inputs"]["clip"] = whole["n"]["inputs"]["clip"] = ["e", 1]
    whole["d"]["inputs"]["vae"] = ["e", 2]
    whole = {key: value for key, value in whole.items() if key not in ("c1", "c2", "a", "t")}
    wired = graph(loader("whole.safetensors"))
    for prompt in (whole, wired):
        prompt["e"]["inputs"].update(economies)
    assert picture(whole) == picture(wired)


# ---- what is refused ----


def test_a_damaged_file_is_told_at_its_loader(failure, place):
    place("broken.safetensors").write_bytes(b"half")
    failed = failure(graph(loader("broken.safetensors")))
    assert (failed.node_id, failed.node_type) == ("a", "LoadAFAAggregator")
    assert "broken.safetensors cannot be read as .safetensors" in failed.message


@pytest.mark.parametrize("name", ["gone.safetensors", "../checkpoints/tiny_sd15_a.safetensors"])
def test_a_file_that_is_not_in_the_list(failure, name):
    failed = failure(graph(loader(name)))
    assert failed.node_id == "a"
    assert "not in" in failed.message


def test_models_that_do_not_fit_are_told_at_the_ensemble_by_file(failure):
    failed = failure(graph(block_average(), checkpoints=["tiny_sd15_a.safetensors", "tiny_sdxl_a.safetensors"]))
    assert failed.node_id in ("e", "t")  # the CLIPs do not fit either, and either node may be first
    assert "_1 (tiny_sd15_a.safetensors)" in failed.message and "_2 (tiny_sdxl_a.safetensors)" in failed.message


def test_an_aggregator_for_three_is_told_at_the_ensemble(failure, place):
    three = AggregatorConfig("SD1.x", CONFIG.channels, 3, text_width=32, time_width=256, hidden_size=64, num_layers=1)
    place("three.safetensors", config=three)
    failed = failure(graph(loader("three.safetensors")))
    assert (failed.node_id, failed.node_type) == ("e", "AFAEnsembleModel")
    assert "trained for 3 experts, and 2 models are connected" in failed.message


def test_odd_weights_are_told_at_the_fusion(failure):
    failed = failure(graph(block_average(weights="much, little")))
    assert (failed.node_id, failed.node_type) == ("a", "AFATrainingFreeFusion")


def test_a_prompt_for_three_is_told_at_the_sampler(failure):
    three = node("AFAEnsembleCLIP", clip_1=["c1", 1], clip_2=["c2", 1], clip_3=["c1", 1])
    failed = failure(graph(block_average(), t=three))
    assert (failed.node_id, failed.node_type) == ("k", "KSampler")
    assert "The prompt carries text for 3 experts, and 2 models are connected" in failed.message


def test_a_compiled_ensemble_is_told_at_the_sampler(failure):
    compiled = node("TorchCompileModel", model=["e", 0], backend="inductor")
    prompt = graph(block_average(), x=compiled)
    prompt["k"]["inputs"]["model"] = ["x", 0]
    failed = failure(prompt)
    assert failed.node_id == "k" and "remove the TorchCompileModel node" in failed.message


def test_maps_of_a_run_that_was_none_are_told_at_the_maps(failure):
    alone = {"start_percent": 1.0, "end_percent": 1.0, "model_1": ["c1", 0], "model_2": ["c2", 0]}
    maps = node("AFARoutingMaps", routing=["e", 1], samples=["k", 0])
    failed = failure(graph(block_average(), e=node("AFAEnsembleModel", aggregator=["a", 0], **alone), m=maps))
    assert failed.node_id == "m" and "There is no routing to show" in failed.message


def test_a_missing_socket_is_told_before_anything_runs(failure):
    failed = failure(graph(block_average(), e=node("AFAEnsembleModel", aggregator=["a", 0], model_1=["c1", 0])))
    assert failed.node_id == "e" and "model_2" in failed.message


def test_after_every_refusal_the_next_graph_is_right(failure, picture):
    """Nothing of a failed run stays in the server's models."""
    before = picture(graph(block_average()))
    failure(graph(block_average(), checkpoints=["tiny_sd15_a.safetensors", "golden_0.safetensors"]))
    failure(graph(block_average(), t=node("AFAEnsembleCLIP", clip_1=["c1", 1], clip_2=["c2", 1], clip_3=["c1", 1])))
    assert picture(graph(block_average(weights="1, 1"))) == before
