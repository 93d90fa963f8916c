"""The pocket experts' files: what is committed agrees with what the host does with it."""
import pytest
import torch

from tests.pocket import assemble, common, data, packing


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
    first, second = assemble.ensure(tmp_path / "a"), assemble.ensure(tmp_path / "b")
    assert set(first) == {"pocket_base", "pocket_people", "pocket_animals", "pocket_things"}
    assert all(first[n].read_bytes() == second[n].read_bytes() for n in first)


def test_what_is_committed_is_small():
    assert sum(p.stat().st_size for p in assemble.sources()) <= 21e6


@pytest.mark.parametrize("caption", ["", "noto, grinning face, face smiling", "twemoji, a word never seen: xylophone"])
def test_written_out_text_encoder_is_the_hosts(comfy_host, tmp_path, caption):
    from tests.pocket import hostrun, text
    nodes = hostrun.start(tmp_path)
    clip = hostrun.load(nodes, "pocket_base")[1]
    ours = text.TextEncoder()
    from safetensors.torch import load_file
    ours.load_state_dict({k: v.float() if v.is_floating_point() else v
                          for k, v in load_file(common.WEIGHTS / "text_encoder.safetensors").items()})
    with torch.inference_mode():
        theirs = nodes.CLIPTextEncode().encode(clip, caption)[0][0][0]
        assert theirs.shape == (1, 24, 64)
        torch.testing.assert_close(ours(text.tokenize([caption])), theirs, atol=1e-4, rtol=1e-4)
