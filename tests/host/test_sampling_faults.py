"""Whatever goes wrong while an ensemble samples: it is reported, nothing is left behind, and the next run is right.

AFA_FAULTS=200 interrupts, and lets memory run out, at that many random moments instead of a few.
"""

import os
import random

import pytest
import torch

from tests.support.ensembles import ensemble, random_aggregator
from tests.support.faults import (
    FailingOperation,
    counted,
    failing_module,
    interrupted,
    interruption,
    nan_from,
    out_of_memory,
    tensor_bytes,
    traces,
)
from tests.support.graphs import control_net, hooked_lora, sample
from tests.support.shop import Shop

TIMES = int(os.environ.get("AFA_FAULTS", "3"))
STEPS = 2


@pytest.fixture(scope="module")
def shop(comfy_host, pack):
    return Shop(comfy_host)


class Patient:
    """An ensemble of two experts, one with a LoRA, that samples with a control net and a scheduled LoRA."""

    def __init__(self, shop):
        self.shop = shop
        self.model = ensemble(shop.host, random_aggregator(shop.plain, 2), shop.with_lora(shop.plain), shop.other)
        self.expected = [self.run() for _ in range(4)][-1]  # the record of the routing is as long as it gets
        self.traces, self.bytes = traces(self.model), tensor_bytes()

    def run(self, model=None) -> torch.Tensor:
        wires = control_net(hooked_lora(self.shop.wires(model or self.model)))
        return sample(wires.with_widgets(steps=STEPS))

    @property
    def networks(self) -> list[torch.nn.Module]:
        """Of both experts, and the aggregator."""
        patchers = [self.model, *self.model.get_additional_models()]
        return [getattr(patcher.model, "diffusion_model", patcher.model) for patcher in patchers]

    def check(self) -> None:
        """Nothing is left behind, and the next run gives what an undisturbed one did."""
        assert traces(self.model) == self.traces
        assert tensor_bytes() <= self.bytes
        assert torch.equal(self.run(), self.expected)


@pytest.fixture(scope="module")
def patient(shop):
    return Patient(shop)


def error_of(error: type[BaseException], action) -> str:
    """What an action fails with; the failure and all that it holds are gone afterwards."""
    with pytest.raises(error) as failure:
        action()
    return str(failure.value)


@pytest.mark.parametrize(("network", "name"), [(0, "model_1"), (1, "model_2"), (2, "The aggregator")])
def test_memory_runs_out(patient, network, name):
    import comfy.model_management as memory

    whole = patient.networks[network]
    module = whole.aggregators["11"].transformer if network == 2 else whole.output_blocks[4][0]
    with failing_module(module, out_of_memory(), at=2):
        text = error_of(memory.OOM_EXCEPTION, patient.run)
    assert text.startswith(f"{name} ran out of memory: make the picture or the batch smaller")
    patient.check()


def test_memory_runs_out_anywhere(patient, capsys):
    """At random tensor operations of the sampling; some the host tries again by itself, in smaller pieces."""
    from comfy.patcher_extension import WrappersMP

    def run(at=None) -> FailingOperation:
        operation = FailingOperation(at)

        def sampling(executor, *args):
            with operation:
                return executor(*args)

        model = patient.model.clone()
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "fault", sampling)
        patient.run(model)
        return operation

    count = run().count
    dice, raised = random.Random(1), 0
    for _ in range(TIMES):
        try:
            run(dice.randint(1, count))
        except torch.cuda.OutOfMemoryError:
            raised += 1
        patient.check()
    with capsys.disabled():
        print(f"\nout of memory at {TIMES} of {count} tensor operations: reported {raised} times, no trace left")
    assert raised > TIMES / 2


def test_interruption_at_any_operation(patient, capsys):
    with interrupted() as asked:
        patient.run()
    dice = random.Random(2)
    for _ in range(TIMES):
        with interrupted(dice.randint(1, len(asked))):
            error_of(interruption(), patient.run)
        patient.check()
    with capsys.disabled():
        print(f"\ninterrupted at {TIMES} of {len(asked)} moments: no trace left, every next run the same to the bit")


@pytest.mark.parametrize("step", [1, 2])
def test_nan_is_traced_to_its_expert_block_and_step(patient, step):
    from afa_core.fusion.not_finite import NotFinite

    block = patient.networks[1].output_blocks[4][0]
    calls = []
    with counted(block, calls):
        patient.run()
    with nan_from(block, first=(step - 1) * len(calls) // STEPS + 1):
        text = error_of(NotFinite, patient.run)
    assert text.startswith(f"model_2 produced NaN or infinite numbers in block output 4 in step {step} of {STEPS} ")
    patient.check()


def test_nan_of_the_aggregator_is_reported(patient):
    from afa_core.fusion.not_finite import NotFinite

    with nan_from(patient.networks[2].aggregators["11"].conv_out):
        text = error_of(NotFinite, patient.run)
    assert text.startswith("The aggregator produced NaN or infinite numbers at ")
    patient.check()


def test_nan_that_does_not_come_again_does_no_harm(patient):
    """As of a flipped bit: the repeated evaluation is what is used."""
    with nan_from(patient.networks[1].output_blocks[4][0], last=1):
        assert torch.equal(patient.run(), patient.expected)
    patient.check()


def test_a_sampler_that_throws(patient):
    import comfy.samplers

    def throwing(model, x, sigmas, extra_args=None, callback=None, disable=None):
        model(x, sigmas[:1].expand(len(x)), **extra_args)
        raise ZeroDivisionError("a mistake in a sampler")

    def run():
        wires = hooked_lora(patient.shop.wires(patient.model))
        sigmas = wires.call("BasicScheduler", model=wires.model, scheduler="simple", steps=STEPS, denoise=1.0)
        wires.call(
            "SamplerCustom", model=wires.model, add_noise=True, noise_seed=1, cfg=5.0, positive=wires.positive,
            negative=wires.negative, sampler=comfy.samplers.KSAMPLER(throwing), sigmas=sigmas, latent_image=wires.latent,
        )  # fmt: skip

    assert error_of(ZeroDivisionError, run) == "a mistake in a sampler"
    patient.check()


def test_an_error_of_the_viewer_neither_ends_a_render_nor_hides_an_error(patient, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("the event loop is closed")

    monkeypatch.setattr(patient.model.get_attachment("afa").record, "on_step", broken)
    assert torch.equal(patient.run(), patient.expected)
    with failing_module(patient.networks[1].output_blocks[4][0], ZeroDivisionError("the first error"), at=2):
        assert error_of(ZeroDivisionError, patient.run) == "the first error"
    monkeypatch.undo()
    patient.check()
