"""Sizes that the golden cases do not have, against an independent implementation (tests/support/reference.py)."""

import pytest
import torch

from tests.host.test_golden import Case, close, guided_sampling
from tests.support import reference
from tests.support.ensembles import ensemble, random_aggregator, spy_on, text_for, training_free

HEADS = 8


def unet_state(model) -> dict[str, torch.Tensor]:
    return {key: tensor.float() for key, tensor in model.model.diffusion_model.state_dict().items()}


def sabw(state: dict[str, torch.Tensor]):
    def decide(index, features, time, text):
        return reference.shares(reference.sub(state, f"aggregators.{index}."), features, time, text, HEADS)

    return decide


def fixed(*weights: float):
    return lambda index, features, time, text: torch.tensor(weights)[None, :, None, None].expand(
        len(time), -1, *features[0].shape[-2:]
    )


@pytest.mark.parametrize("name", ["case_a", "case_b", "case_e"])
def test_the_reference_itself_is_right(pack, comfy_host, checkpoint, name):
    from tests.golden.goldweights import aggregator_state, expert_state

    case = Case(name)
    experts = [{key: torch.from_numpy(value) for key, value in expert_state(i).items()} for i in case.experts]
    state = {
        f"aggregators.{i}.{key}": torch.from_numpy(value)
        for i in range(25)
        for key, value in aggregator_state(name, i).items()
    }
    found = reference.predict(
        experts, case["x"], case["timesteps"], list(case["encoder_hidden_states"]), HEADS, sabw(state)
    )
    close(found, case["sample"], 5e-5)


def made_up_case(experts: int, batch: int, height: int, width: int) -> Case:
    """A case's inputs without its numbers: each expert's own text and each sample's own timestep."""
    generator = torch.Generator().manual_seed(7)
    case = Case("case_a")
    case.tensors = {
        "x": torch.randn(batch, 4, height, width, generator=generator),
        "timesteps": torch.randint(0, 1000, (batch,), generator=generator),
        "encoder_hidden_states": torch.randn(experts, batch, 77, 64, generator=generator),
    }
    return case


@pytest.mark.parametrize(
    ("experts", "hidden", "layers", "batch", "height", "width"),
    [(4, 64, 1, 1, 16, 16), (2, 128, 2, 2, 20, 28), (3, 128, 1, 2, 13, 9)],
)
def test_other_sizes(pack, comfy_host, checkpoint, experts, hidden, layers, batch, height, width):
    """More experts, the published hidden size, odd latents, and each sample's own timestep.

    Never 1x1 at the deepest level: there a group norm has two values a group, and magnifies rounding.
    """
    models = [checkpoint(f"golden_{i}")[0] for i in range(experts)]
    aggregator = random_aggregator(models[0], experts, hidden_size=hidden, num_layers=layers)
    case = made_up_case(experts, batch, height, width)
    model = ensemble(comfy_host, aggregator, *models)
    spy = spy_on(model)
    found = guided_sampling(comfy_host, case, model)
    expected = reference.predict(
        [unet_state(m) for m in models], case["x"], case["timesteps"], list(case["encoder_hidden_states"]), HEADS,
        sabw(aggregator.state),
    )  # fmt: skip
    close(spy.fused[24], expected, 1e-4)
    assert found.shape == case["x"].shape


@pytest.mark.parametrize("weights", ["", "3, 1"])
def test_weighted_block_average(pack, comfy_host, checkpoint, weights):
    models = [checkpoint(f"golden_{i}")[0] for i in (0, 1)]
    case = made_up_case(2, 1, 8, 8)
    model = ensemble(comfy_host, training_free(comfy_host, "block average", weights), *models)
    found = guided_sampling(comfy_host, case, model)
    decide = fixed(0.75, 0.25) if weights else fixed(0.5, 0.5)
    expected = reference.predict(
        [unet_state(m) for m in models], case["x"], case["timesteps"], list(case["encoder_hidden_states"]), HEADS, decide
    )  # fmt: skip
    close(found, expected, 1e-4)


def test_prompts_of_other_lengths_are_repeated(pack, comfy_host, checkpoint):
    """The aggregators see the mean of texts of 77 and 154 tokens; each expert reads its own."""
    models = [checkpoint(f"golden_{i}")[0] for i in (0, 1)]
    aggregator = random_aggregator(models[0], 2)
    case = made_up_case(2, 1, 8, 8)
    random = torch.Generator().manual_seed(5)
    short, long = (torch.randn(1, length, 64, generator=random) for length in (77, 154))
    case.texts = lambda: text_for([short, long])
    model = ensemble(comfy_host, aggregator, *models)
    found = guided_sampling(comfy_host, case, model)
    # Repeated tokens change nothing for attention, so the reference may repeat them for the expert as well.
    expected = reference.predict(
        [unet_state(m) for m in models], case["x"], case["timesteps"], [short.repeat(1, 2, 1), long], HEADS,
        sabw(aggregator.state),
    )  # fmt: skip
    close(found, expected, 1e-4)
