"""The test data are what they claim: toys of every family, and experts that give the authors' own numbers."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.golden.goldweights import CASES
from tests.support.comfy.bootstrap import REPOSITORY
from tests.support.comfy.checkpoints import FOLDER, TOYS

GOLDEN = REPOSITORY / "tests" / "golden"


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


@pytest.mark.parametrize("case", CASES)
def test_a_golden_expert_alone_gives_the_authors_numbers(case, checkpoint, pytorch_attention):
    from comfy import model_management

    expected = load_file(GOLDEN / f"{case}.safetensors")
    with safe_open(GOLDEN / f"{case}.safetensors", "pt") as file:
        assert "afa_golden" in file.metadata()
    for place, expert in enumerate(CASES[case]["experts"]):
        model, _, _ = checkpoint(f"golden_{expert}")
        with torch.inference_mode():
            model_management.load_models_gpu([model])
            text = expected["encoder_hidden_states"][place]
            noise = model.model.diffusion_model(expected["x"], expected["timesteps"], context=text)
        torch.testing.assert_close(noise, expected[f"single_expert_{place}_sample"], rtol=0, atol=5e-5)
