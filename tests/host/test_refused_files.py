"""An aggregator whose checkpoints are others than those connected, or not to be found; and files that cannot be read."""

import logging
import shutil

import pytest

from afa_core.aggregator.file import AggregatorError, load_aggregator, save_aggregator
from tests.support.aggregators import random_aggregator, small_config, write_authors_layout
from tests.support.ensembles import config_for, ensemble
from tests.support.mutations import join, split
from tests.support.refusing import refused

pytestmark = pytest.mark.usefixtures("pack")


def identified(path, model, experts: list[dict]):
    """An aggregator file for as many experts like `model`, which names these."""
    save_aggregator(random_aggregator(config_for(model, len(experts)), experts=experts), path)
    return load_aggregator(path)


@pytest.fixture
def digests(models):
    """Each toy's entry in an aggregator's metadata."""
    from afa_core.host.experts.checkpoints import model_identity

    def entries(*names):
        models_ = models(*names)
        return [
            {"file": f"{n}.safetensors", "sha256": model_identity(m).digests[0]}
            for n, m in zip(names, models_, strict=True)
        ]

    return entries


def test_the_right_checkpoints_in_another_order(comfy_host, models, expert_error, digests, tmp_path):
    a, b, c = models("tiny_sd15_a", "tiny_sd15_b", "tiny_sd15_c")
    aggregator = identified(tmp_path / "abc.safetensors", a, digests("tiny_sd15_a", "tiny_sd15_b", "tiny_sd15_c"))
    text = refused(expert_error, lambda: ensemble(comfy_host, aggregator, b, a, c))
    assert "abc.safetensors was trained with the same checkpoints in another order than model_1, model_2: " in text
    right = "tiny_sd15_a.safetensors to model_1, tiny_sd15_b.safetensors to model_2, tiny_sd15_c.safetensors to model_3"
    assert f"connect {right}." in text


def test_the_right_order_is_taken_in_silence(comfy_host, models, digests, tmp_path, caplog):
    a, b = models("tiny_sd15_a", "tiny_sd15_b")
    aggregator = identified(tmp_path / "ab.safetensors", a, digests("tiny_sd15_a", "tiny_sd15_b"))
    with caplog.at_level(logging.WARNING):
        assert ensemble(comfy_host, aggregator, a, b) is not None
    assert "AFA" not in caplog.text


@pytest.mark.parametrize("stranger", ["tiny_sd15_c", "tiny_sd15_a"])
def test_an_unknown_checkpoint_is_told_by_name(comfy_host, models, digests, tmp_path, caplog, stranger):
    """Or one that has taken another's place, while its own place is filled."""
    a, other = models("tiny_sd15_a", stranger)
    aggregator = identified(tmp_path / "ab.safetensors", a, digests("tiny_sd15_a", "tiny_sd15_b"))
    with caplog.at_level(logging.WARNING):
        assert ensemble(comfy_host, aggregator, a, other) is not None
    (warning,) = [message for message in caplog.messages if message.startswith("AFA")]
    assert (
        "model_2 is not the checkpoint that ab.safetensors was trained with there (tiny_sd15_b.safetensors)" in warning
    )


def test_a_file_that_names_no_experts_costs_no_look_at_them(comfy_host, models, monkeypatch):
    def no_look(patcher):
        raise AssertionError("the weights were read")

    monkeypatch.setattr("afa_core.host.experts.identity.model_identity", no_look)
    a, b = models("tiny_sd15_a", "tiny_sd15_b")
    assert ensemble(comfy_host, random_aggregator(config_for(a, 2)), a, b) is not None


# ---- files ----


@pytest.fixture
def installed(comfy_host):
    """installed(name) -> the path in models/afa; removed afterwards."""
    made = []

    def place(name):
        made.append(comfy_host.base / "models" / "afa" / name)
        return made[-1]

    yield place
    for path in made:
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("node", ["LoadAFAAggregator", "LoadAFAEnsemble"])
@pytest.mark.parametrize("damage", ["version", "truncated", "not safetensors"])
def test_a_file_that_cannot_be_read(comfy_host, installed, node, damage):
    path = installed("odd.safetensors")
    save_aggregator(random_aggregator(small_config()), path)
    if damage == "version":
        header, data = split(path.read_bytes())
        header["__metadata__"]["version"] = "9"
        path.write_bytes(join(header, data))
    else:
        path.write_bytes(path.read_bytes()[:-100] if damage == "truncated" else b"PK\x03\x04")
    text = refused(AggregatorError, lambda: comfy_host.call(node, aggregator_name="odd.safetensors"))
    assert text.startswith("odd.safetensors ")
    assert ("version '9'" if damage == "version" else "cannot be read as .safetensors") in text


def test_a_file_that_is_gone(comfy_host):
    with pytest.raises(FileNotFoundError, match="never_there.safetensors is not in models/afa: put the aggregator there"):
        comfy_host.call("LoadAFAAggregator", aggregator_name="never_there.safetensors")


@pytest.mark.parametrize("node", ["LoadAFAAggregator", "LoadAFAEnsemble"])
def test_a_file_that_another_node_names_is_loaded_again_only_if_one_was_written(comfy_host, installed, node):
    """The host hands None for its name."""
    stamp = comfy_host.nodes.NODE_CLASS_MAPPINGS[node].fingerprint_inputs
    before = stamp(aggregator_name=None)
    assert stamp(aggregator_name=None) == before
    save_aggregator(random_aggregator(small_config()), installed("new.safetensors"))
    assert stamp(aggregator_name=None) != before


@pytest.mark.parametrize("name", ["../checkpoints/tiny_sd15_a.safetensors", "/etc/passwd", "..", ""])
def test_names_lead_nowhere_else(comfy_host, name):
    with pytest.raises(FileNotFoundError, match="is not in models/afa"):
        comfy_host.call("LoadAFAAggregator", aggregator_name=name)


@pytest.mark.parametrize("layout", ["ours", "authors"])
def test_an_ensemble_file_that_names_no_checkpoints(comfy_host, installed, layout):
    path = installed("anonymous" if layout == "authors" else "anonymous.safetensors")
    if layout == "ours":
        save_aggregator(random_aggregator(small_config()), path)
    else:
        write_authors_layout(random_aggregator(small_config()), path)
    text = refused(AggregatorError, lambda: comfy_host.call("LoadAFAEnsemble", aggregator_name=path.name))
    assert f"{path.name} does not say which checkpoints it was trained for: load them yourself" in text


def test_an_ensemble_file_whose_checkpoint_is_missing(comfy_host, models, installed, digests):
    path = installed("ab.safetensors")
    (known,) = digests("tiny_sd15_a")
    identified(path, models("tiny_sd15_a")[0], [known, {"file": "sold.safetensors", "sha256": "0" * 64}])
    text = refused(AggregatorError, lambda: comfy_host.call("LoadAFAEnsemble", aggregator_name=path.name))
    assert (
        "ab.safetensors was trained with sold.safetensors as expert 2, and none of your .safetensors files in "
        in text
    )


def test_an_ensemble_file_that_names_no_weights(comfy_host, models, installed):
    """Else any checkpoint would do, or an attacker's choice of name would."""
    path = installed("nameless.safetensors")
    identified(path, models("tiny_sd15_a")[0], [{"file": "tiny_sd15_a.safetensors"}, {}])
    text = refused(AggregatorError, lambda: comfy_host.call("LoadAFAEnsemble", aggregator_name=path.name))
    assert "tiny_sd15_a.safetensors as expert 1" in text
