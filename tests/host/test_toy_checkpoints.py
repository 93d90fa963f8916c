"""The test data are what they claim: toys of every family. Golden experts' own numbers: tests/host/test_golden.py."""

import pytest
import torch

from tests.support.comfy.checkpoints import FOLDER, TOYS


@pytest.mark.parametrize("name", TOYS)
def test_every_toy_is_loaded_as_its_family_and_samples(name, checkpoint, encode, sample):
    family, _, v_prediction = TOYS[name]
    model, clip, _ = checkpoint(name)
    assert type(model.model.model_config).__name__ == family
    assert model.model.model_type.name == ("V_PREDICTION" if v_prediction else "EPS")
    positive, negative = encode(clip, "a cat"), encode(clip, "")
    picture = sample(model, positive, negative)
    assert picture.isfinite().all()
    assert not torch.equal(picture, sample(model, negative, positive))
    assert torch.equal(picture, sample(model, positive, negative))


def test_toys_differ(comfy_host):
    contents = {(FOLDER / f"{name}.safetensors").read_bytes() for name in TOYS}
    assert len(contents) == len(TOYS)
