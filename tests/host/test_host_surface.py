"""The host has every name that the pack uses, with the signature that it uses; and the check sees where it has not."""

import ast

import pytest

from tests.support.comfy import surface
from tests.support.comfy.uses import Known, check_source


@pytest.fixture(scope="module")
def check(comfy_host):
    """check(source) -> [what is wrong with it], for the text of a file of ours."""
    samples = surface.host_objects(comfy_host)
    fields = {"patcher": Known("ModelPatcher", samples[0])}

    def run(source):
        uses = check_source(ast.parse(source), "ours.py", samples, fields)
        return [f"{use.name} {use.problem}" for use in uses if use.problem]

    return run


def test_nothing_is_missing_on_this_host(comfy_host):
    uses = surface.check_pack(comfy_host)
    assert [use for use in uses if use.problem] == []
    # One of each kind, so that a reader that sees nothing is noticed.
    assert {
        "comfy.sample.sample()",
        "comfy.patcher_extension.WrappersMP.APPLY_MODEL",
        "nodes.ConditioningConcat",
        "CLIP.clone()",
        "ModelPatcher.model.diffusion_model",
        "UNetModel.output_blocks",
    } <= {use.name for use in uses}


MODEL = "from comfy.model_patcher import ModelPatcher\n"
WRONG = {
    "a name": ("import comfy.utils\ncomfy.utils.no_such", "comfy.utils.no_such is missing"),
    "an imported name": ("from comfy.sd import NO_SUCH", "comfy.sd.NO_SUCH is missing"),
    "a module": ("import comfy.no_such", "comfy.no_such cannot be imported"),
    "a keyword": (
        "import comfy.sample as s\ns.prepare_noise(1, 2, no_such=3)",
        "unexpected keyword argument 'no_such'",
    ),
    "too few": ("from comfy.sample import prepare_noise\nprepare_noise(1)", "missing a required argument"),
    "too many, and some unknown": ("import comfy.sample\ncomfy.sample.prepare_noise(1, 2, 3, 4, *x)", "too many"),
    "a method": (MODEL + "def f(model: ModelPatcher | None):\n    model.no_such()", "ModelPatcher.no_such is missing"),
    "one of several": (
        MODEL + "def f(models: list[ModelPatcher]):\n    [m.no_such for m in models]",
        "no_such is missing",
    ),
    "what is assigned": (
        MODEL + "def f(m: ModelPatcher):\n    n = m.clone().model\n    n.no_such",
        "no_such is missing",
    ),
    "what we set": (MODEL + "def f(model: ModelPatcher):\n    model.no_such = 1", "ModelPatcher.no_such is missing"),
    "an attribute of ours": ("def f(expert):\n    expert.patcher.clone(1, 2, 3, 4)", "too many positional arguments"),
    "an inherited method": (
        "from comfy.sd import CLIP\nclass Ours(CLIP):\n    def f(self):\n        super().clip_layer()",
        "missing a required argument",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_missing_or_changed_is_said(check, what):
    source, problem = WRONG[what]
    (found,) = check(source)
    assert problem in found


RIGHT = {
    "guarded": "import comfy.utils\nif hasattr(comfy.utils, 'no_such'):\n    comfy.utils.no_such()",
    "for other hosts": MODEL + "def f(m: ModelPatcher):\n    if hasattr(m, 'no_such'):\n        m.clone(no_such=1)",
    "of our own class": MODEL + "def f(m: ModelPatcher):\n    return m.no_such if isinstance(m, Ours) else m.model",
    "another thing of that name": MODEL + "def f(m: ModelPatcher):\n    m = make()\n    m.no_such",
    "not of the host": "import json\njson.no_such",
}


@pytest.mark.parametrize("source", RIGHT.values(), ids=list(RIGHT))
def test_what_is_not_the_hosts_is_left_alone(check, source):
    assert check(source) == []


def test_a_host_that_dropped_a_function_is_noticed(comfy_host, monkeypatch):
    import comfy.samplers

    monkeypatch.delattr(comfy.samplers, "encode_model_conds")
    problems = [use for use in surface.check_pack(comfy_host) if use.problem]
    assert {use.name for use in problems} == {"comfy.samplers.encode_model_conds"}
    assert all(use.place.startswith("afa_core/host/") for use in problems)


def test_a_host_that_changed_a_method_is_noticed(comfy_host, monkeypatch):
    from comfy.model_patcher import ModelPatcher

    monkeypatch.setattr(ModelPatcher, "add_wrapper_with_key", lambda self, wrapper, key: None)
    problems = [use for use in surface.check_pack(comfy_host) if use.problem]
    assert {use.name for use in problems} == {"ModelPatcher.add_wrapper_with_key()"}
