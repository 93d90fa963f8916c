"""What an ensemble asks of a GPU stays within its limits; and what is counted there is what happens."""

import pytest
import torch

from tests.bench.gpu_habits import rows
from tests.bench.models import SD15, Family
from tests.support.fake_gpu import counted, fake_gpu, to_fake_gpu

SMALL = Family(
    "SD15",
    {
        **SD15.config, "num_res_blocks": [1] * 2, "channel_mult": [1, 2], "transformer_depth": [1, 0],
        "transformer_depth_output": [1] * 2 + [0] * 2,
    },
)  # fmt: skip
"""SD1.5 of two levels, one with attention and one without."""


def test_the_limits_hold(comfy_host, pack):
    assert [str(row) for row in rows(SMALL, SMALL) if not row.holds] == []


def test_kernels_and_casts_are_counted_and_views_are_not():
    with fake_gpu(), counted() as counts:
        x = torch.zeros(2, 3, device="cuda")
        (x.t().unflatten(0, (3, 1)).half() * 2).flatten()
    names = {"zeros.default", "_to_copy.default", "mul.Tensor", "clone.default"}
    assert counts.kernels == {f"aten.{name}": 1 for name in names}
    assert counts.casts == 1


def test_what_waits_is_counted():
    with fake_gpu(), counted() as counts:
        x = torch.ones(3, device="cuda")
        x.to("cpu", non_blocking=True)
        assert counts.waits.total() == 0
        x.sum().item()
        x.cpu()
        torch.ones(3).to("cuda")
        x.tolist()
    assert counts.waits == {"item": 1, "copy": 3}


@pytest.mark.parametrize("kind", ["ModelSamplingDiscreteFlow", "ModelSamplingFlux", "ModelSamplingCosmosRFlow"])
def test_noise_levels_of_transformers_wait_for_nothing(comfy_host, pack, kind):
    """In every training step, with the levels' bounds on the GPU as all of a loaded model is."""
    import comfy.model_sampling

    from afa_core.host.architectures.noise import sigma_of

    sampling = getattr(comfy.model_sampling, kind)()
    with fake_gpu():
        to_fake_gpu(sampling)
        levels = torch.full((2,), 0.5, device="cuda")
        with counted() as counts:
            sigma = sigma_of(sampling, levels)
    assert sigma.is_cuda and not counts.waits
