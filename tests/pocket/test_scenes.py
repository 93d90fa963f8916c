"""The scenes' lists, and captions of two subjects through the host."""

from collections import Counter

import pytest
import torch
from torch.nn.utils.parametrize import is_parametrized

from tests.pocket import common, data, diffusion, text
from tests.pocket.scenes import checkpoints, low_rank, models, pairs, pictures, rows, statistics

HELD_OUT, WATCHED = ("known", "experts_only", "held_out"), ("watched_known", "watched_experts_only", "watched_unseen")


@pytest.fixture(scope="module")
def lines() -> list[list[str]]:
    return [line.split("\t") for line in pairs.PATH.read_text(encoding="ascii").splitlines()]


def test_every_subject_is_in_one_list_and_in_eight_of_its_pairs(lines):
    lists = {
        name: Counter(code for row in lines if row[0] == name for code in row[1:]) for name in (*HELD_OUT, *WATCHED)
    }
    assert len(lines) == sum(map(len, lists.values())) * 4
    for name, codes in lists.items():
        assert len(codes) == (30 if name in WATCHED else 60) and set(codes.values()) == {8}
    assert len(set().union(*lists.values())) == sum(map(len, lists.values()))


def test_no_pair_is_listed_twice(lines):
    assert len({tuple(row[1:]) for row in lines}) == len(lines)


def test_held_out_pairs_are_of_held_out_subjects_and_no_other_list_has_one(lines):
    held = {s.code for s in data.subjects("held_out")}
    assert {code for row in lines if row[0] == "held_out" for code in row[1:]} == held
    assert not held & {code for row in lines if row[0] != "held_out" for code in row[1:]}


def test_the_base_sees_no_subject_that_only_experts_learn(lines):
    seen = {s.code for s in data.subjects("train")}
    assert not seen & {code for row in lines if "known" not in row[0] for code in row[1:]}


@pytest.mark.parametrize(
    "parts",
    [
        ("",),
        ("noto, grinning face, face smiling",),
        ("twemoji, a word never seen: xylophone",),
        ("twemoji, mango, food fruit", "twemoji, runner, person activity"),
    ],
)
def test_a_caption_is_read_as_the_host_reads_it(comfy_host, parts):
    """One chunk a subject, by the very checkpoint that the host loads."""
    ((_, clip, _),) = checkpoints.load(comfy_host, [checkpoints.BASE])
    with torch.inference_mode():
        (theirs,) = comfy_host.call("CLIPTextEncode", clip=clip, text=pictures.caption(parts))
        assert theirs[0][0].shape == (1, 24 * len(parts), 64)
        ours = models.base().context(models.tokenize([parts]))
        torch.testing.assert_close(ours, theirs[0][0], atol=1e-4, rtol=1e-4)


def test_the_scenes_base_starts_from_the_base_of_single_pictures(comfy_host, tmp_path, monkeypatch):
    """A caption of words that it has read means the same to both."""
    before = diffusion.Both()
    for name in ("TEXT", "UNET"):
        monkeypatch.setattr(diffusion, name, tmp_path / name)
    with pytest.raises(SystemExit, match="python tests/pocket train"):
        models.first()
    diffusion.keep(before)
    after = models.first().requires_grad_(False)
    known = data.captions(data.subjects("train"), ["twemoji"])[::90]
    found = after.context(models.tokenize([(caption,) for caption in known]))
    torch.testing.assert_close(found, before.text(text.tokenize(known)).detach())
    assert all(torch.equal(a, b) for a, b in zip(after.unet.parameters(), before.unet.parameters(), strict=True))
    assert set(after.text.vocabulary.tolist()) > set(before.text.vocabulary.tolist())


@pytest.mark.parametrize("kind", ["near", "lora"])
def test_experts_are_moved_from_the_scenes_base_and_small(kind):
    moved = models.moves(kind)
    assert 0.02 < moved["length"] < 0.5 and moved["cosine"] < 0.9
    assert all(models.expert_path("lora", domain).stat().st_size < 2e6 for domain in common.DOMAINS)
    far = {models.expert_path("far", domain) for domain in common.DOMAINS}  # not committed
    assert sum(path.stat().st_size for path in {*models.WEIGHTS.glob("*.safetensors")} - far) <= 25e6


def test_a_lora_is_trained_stored_and_loaded_as_one_change(comfy_host):
    """The network with it beside its frozen weights, with it merged, and the host's with the file on the checkpoint."""
    import comfy.sd

    random, (trained, merged) = torch.Generator().manual_seed(0), (models.base() for _ in range(2))
    before = {name: weight.clone() for name, weight in merged.unet.named_parameters()}
    added = low_rank.attach(trained.unet)
    assert all(torch.equal(weight, before[name]) for name, weight in _weights(trained.unet))
    for layer in added.values():
        layer.up.data = (0.1 * torch.randn(layer.up.shape, generator=random)).half().float()
        layer.down.data = layer.down.data.half().float()
    lora = low_rank.state(trained.unet)
    low_rank.merge(merged.unet, lora)
    ((model, _, _),) = checkpoints.load(comfy_host, [checkpoints.BASE])
    model = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]
    model.patch_model()
    hosts = dict(model.model.diffusion_model.named_parameters())
    expected = _weights(trained.unet)
    assert len(model.patches) == len(expected) == len(added)
    for name, weight in expected:
        assert (weight - before[name]).norm() > 1e-3 * weight.norm()
        torch.testing.assert_close(merged.unet.get_parameter(name), weight)
        torch.testing.assert_close(hosts[name].float(), weight, atol=2e-3, rtol=2e-3)  # the checkpoint's float16


def _weights(unet):
    """Those that carry a LoRA, with it, by their names in an ordinary network."""
    return [(f"{name}.weight", m.weight.detach()) for name, m in unet.named_modules() if is_parametrized(m)]


def test_the_weight_of_the_right_expert_is_read_in_its_half():
    shares = torch.zeros(2, 3, 2, 4)
    shares[0, 0, :, :2], shares[0, 1, :, 2:] = 1.0, 0.6  # people on the left, animals on the right
    shares[1, 2] = 0.25
    found = rows.right_weight(shares, [("people", "animals"), ("things", "people")])
    torch.testing.assert_close(found, torch.tensor([0.8, 0.125]))


def test_the_oracle_takes_each_half_from_its_expert():
    from afa_core.fusion.fusion import FusionState
    from afa_core.fusion.points import FusionPoint

    experts = [torch.full((2, 4, 8, 16), float(value)) for value in range(3)]
    domains = [("people", "animals"), ("things", "people")]
    (fused, *_) = rows.oracle_by_place(domains)(FusionPoint(12, "prediction", 4, 1), experts, FusionState([]))
    assert [(row[0, 0, 0].item(), row[0, 0, -1].item()) for row in fused] == [(0, 1), (2, 0)]
    assert rows.oracle_by_place(domains)(FusionPoint(3, "input 3", 64, 1), experts, FusionState([])) is experts


def test_an_interval_knows_that_pairs_share_subjects():
    """Of a value that depends on the left subject alone, 80 pairs say no more than the ten subjects they show there."""
    generator = torch.Generator().manual_seed(1)
    worth = torch.randn(10, generator=generator)
    codes = [(f"left {i}", f"right {j}") for i in range(10) for j in range(8)]
    values = worth.repeat_interleave(8)
    found = statistics.over_subjects(values, codes)
    assert found.mean == pytest.approx(worth.mean().item(), abs=1e-5)
    assert found.low < found.mean < found.high
    over_pairs = 2 * 1.96 * values.std() / 80**0.5
    assert found.high - found.low > 2 * over_pairs
    assert statistics.over_subjects(torch.full((80,), 0.3), codes) == pytest.approx((0.3, 0.3, 0.3))


def test_a_share_is_as_sure_as_the_whole_that_it_is_of():
    generator = torch.Generator().manual_seed(1)
    codes = [(f"left {i}", f"right {j}") for i in range(10) for j in range(8)]
    whole = 1 + torch.randn(80, generator=generator)
    part = 0.6 * whole
    assert statistics.share_over_subjects(part, whole, codes) == pytest.approx((0.6, 0.6, 0.6))
    assert statistics.share_over_subjects(part, whole - whole.mean(), codes) is None
