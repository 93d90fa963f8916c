"""Starting ComfyUI with the pack costs next to nothing: what the host has not loaded itself waits until it is used."""

import json
import subprocess
import sys

import pytest

from tests.support.comfy.bootstrap import PACK_NAME, REPOSITORY, make_base

PROGRAM = """
import json, sys
from pathlib import Path
from tests.support.comfy.inprocess import Host

host = Host(Path(sys.argv[1]))
before = set(sys.modules)
host.load_pack()
print(json.dumps({"modules": sorted(set(sys.modules) - before)}))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The names of the modules that loading the pack brought, in a process of its own."""
    base = make_base(tmp_path_factory.mktemp("import"))
    command = [sys.executable, "-c", PROGRAM, str(base)]
    answer = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=300)
    return json.loads(answer.stdout.splitlines()[-1])


def test_the_pack_was_loaded(loaded):
    assert any(name.startswith("afa_core.host.") for name in loaded["modules"])
    assert any(PACK_NAME in name and name.endswith(".nodes.ensemble") for name in loaded["modules"])


def test_only_our_own_modules_are_new(loaded):
    """kornia, matplotlib, scipy and the like among the first."""
    ours = ("afa_core", "tests.")
    foreign = [name for name in loaded["modules"] if not name.startswith(ours) and PACK_NAME not in name]
    standard = [name for name in foreign if name.split(".")[0] in sys.stdlib_module_names]
    assert [name for name in foreign if name not in standard] == []
    assert len(standard) < 20


WITHOUT_SERVER = """
import json, sys
from pathlib import Path
from tests.support.comfy.checkpoints import ensure_checkpoints
from tests.support.comfy.inprocess import Host

ensure_checkpoints()
host = Host(Path(sys.argv[1]))
import server
del server.PromptServer.instance
host.load_pack()
model, clip, _ = host.call("CheckpointLoaderSimple", ckpt_name="tiny_sd15_a.safetensors")
other = host.call("CheckpointLoaderSimple", ckpt_name="tiny_sd15_b.safetensors")[0]
fusion = host.call("AFATrainingFreeFusion", method="block average")[0]
ensemble, routing = host.call("AFAEnsembleModel", aggregator=fusion, model_1=model, model_2=other)
text = host.call("CLIPTextEncode", clip=clip, text="a cat")[0]
latent = host.call("EmptyLatentImage", width=64, height=64, batch_size=1)[0]
sampler = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
samples = host.call("KSampler", model=ensemble, positive=text, negative=text, latent_image=latent, **sampler)[0]
print(json.dumps([bool(samples["samples"].isfinite().all()), len(routing.run_of(samples["samples"]).steps)]))
"""


def test_the_pack_works_where_no_server_runs(tmp_path):
    """As of a ComfyUI that is embedded as a library."""
    command = [sys.executable, "-c", WITHOUT_SERVER, str(make_base(tmp_path))]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert json.loads(answer.stdout.splitlines()[-1]) == [True, 2]
    assert "cannot be notified" not in answer.stderr
