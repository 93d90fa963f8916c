"""The small checkpoints' files: who was held out, how they are packed, and how much is committed."""
import torch

from tests.pocket import common, data, packing, train
from tests.pocket.scenes import checkpoints, models


def test_held_out_subjects_are_in_no_training_caption():
    held, train = data.subjects("held_out"), {s.code for s in data.subjects("train")}
    assert len(held) >= 60 and all(sum(s.domain == d for s in held) >= 12 for d in common.DOMAINS)
    assert not train & {s.code for s in held}


def test_packing_loses_little():
    g = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(8, 4, 3, 3, generator=g).half(), "b": torch.randn(8, generator=g).half()}
    moved = {k: v.float() + 0.05 * torch.randn(v.shape, generator=g) for k, v in base.items()}
    again = packing.unpack(packing.pack(moved, base), base)
    assert all(again[k].shape == moved[k].shape for k in moved)
    # one 8-bit step of the largest move of a row, and float16's own rounding
    assert (again["w"].float() - moved["w"]).abs().max() < 0.05 * 4 / 127 / 2 + 2e-3
    assert torch.equal(again["b"], moved["b"].half())


def test_assembling_twice_gives_the_same_bytes(tmp_path):
    names = [checkpoints.BASE, *checkpoints.expert_names("near")]
    first, second = (checkpoints.ensure(tmp_path / folder, names) for folder in "ab")
    assert list(first) == names
    assert all(first[n].read_bytes() == second[n].read_bytes() for n in names)


def test_what_is_committed_is_small():
    """Far experts, where somebody has trained them, are not committed."""
    far = {models.expert_path("far", domain) for domain in common.DOMAINS}
    assert sum(p.stat().st_size for p in {*common.WEIGHTS.rglob("*.safetensors")} - far) <= 36e6


def test_what_the_scenes_start_from_is_trained_where_it_or_the_autoencoder_is_lacking(monkeypatch, tmp_path):
    assert train.lacking() == ()
    monkeypatch.setattr(common, "WEIGHTS", tmp_path)
    assert train.lacking() == ("vae", "base", "decoder")
