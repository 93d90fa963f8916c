"""Fixtures: a real ComfyUI on the CPU, in this process and as a live server, with toy checkpoints.

Pure tests `import afa_core` and ask for nothing here. Tests of afa_core.host ask for `comfy_host`, tests of nodes for
`pack`; `afa_core` is the same package in all three (tests/support/comfy/alias.py says how).
Everything that touches the host runs in inference mode, as its executor runs nodes.
"""

import gc
import os
from pathlib import Path

import hypothesis
import pytest

from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.checkpoints import ensure_checkpoints
from tests.support.comfy.diffusion_models import ensure_diffusion_models
from tests.support.comfy.inprocess import Host
from tests.support.comfy.server import LiveServer

# Before torch is imported: on few cores, spinning threads of several processes slow one another.
os.environ["OMP_NUM_THREADS"] = "1"

# The same examples in every run; and the first example of a test may pay for an import of the host.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


SLOW = (
    "host/test_distil_node.py", "host/test_low_memory.py", "host/test_shared_network.py", "live/test_workflows.py",
    "host/test_training_faults.py", "host/test_trainer_node.py", "host/test_transformer_nodes.py", "live/test_templates.py",
    "host/test_transformer_random.py", "host/test_sampling_faults.py", "host/test_probe.py", "core/test_training_session.py",
)  # fmt: skip
"""Files that take longest, which begin first: the last of them would else run alone, while the other process waits."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the order within a file, and that of all others."""
    here, places = Path(__file__).parent, {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: places.get(item.path.relative_to(here).as_posix(), len(SLOW)))


@pytest.fixture(scope="session")
def comfy_host(tmp_path_factory) -> Host:
    """ComfyUI imported into this process, with the toy families and their checkpoints."""
    ensure_checkpoints()
    ensure_diffusion_models()
    host = Host(make_base(tmp_path_factory.mktemp("comfy")))
    import torch

    torch.set_num_threads(1)
    # The host's half a million objects stay: the collection after every test need not look at them again.
    gc.collect()
    gc.freeze()
    return host


@pytest.fixture(scope="session")
def pack(comfy_host):
    """This pack, loaded by the host as a custom node; its nodes then answer to `comfy_host.call`."""
    return comfy_host.load_pack()


@pytest.fixture(autouse=True)
def _nothing_leaks(request):
    """After every test on the host: no model stays loaded, no interruption stays pending."""
    yield
    if "comfy_host" in request.fixturenames:
        request.getfixturevalue("comfy_host").release()


@pytest.fixture
def checkpoint(comfy_host):
    """checkpoint("tiny_sd15_a") -> (model, clip, vae), read afresh by the host's own loader at every call."""
    return lambda name: comfy_host.call("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors")[:3]


@pytest.fixture
def encode(comfy_host):
    """encode(clip, "a cat") -> conditioning."""
    return lambda clip, text: comfy_host.call("CLIPTextEncode", clip=clip, text=text)[0]


@pytest.fixture
def sample(comfy_host):
    """sample(model, positive, negative, latent=None, **KSampler's widgets) -> the samples, a tensor.

    By default two Euler steps at guidance 7 from an empty 64 x 64 picture.
    """

    def run(model, positive, negative, latent=None, **widgets):
        if latent is None:
            latent = comfy_host.call("EmptyLatentImage", width=64, height=64, batch_size=1)[0]
        inputs = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
        defaults = {"seed": 1, "steps": 2, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"}
        return comfy_host.call("KSampler", **{**inputs, **defaults, **widgets})[0]["samples"]

    return run


@pytest.fixture
def pytorch_attention(comfy_host, monkeypatch):
    """Attention by PyTorch's own kernel, with which the golden cases were made.

    Without it the host uses its sub-quadratic attention, as it does for every user on a CPU.
    """
    from comfy.ldm.modules import attention

    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    monkeypatch.setattr(attention, "optimized_attention_masked", attention.attention_pytorch)


@pytest.fixture(scope="session")
def live_server(tmp_path_factory):
    """One running ComfyUI server with this pack, shared by all live tests."""
    ensure_checkpoints()
    ensure_diffusion_models()
    with LiveServer(make_base(tmp_path_factory.mktemp("live"))) as server:
        yield server
