"""The scenes' lists, and captions of two subjects through the host."""

from collections import Counter

import pytest
import torch

from tests.pocket import common, data, hostrun, text
from tests.pocket.scenes import models, pairs, pictures

HELD_OUT, WATCHED = ("known", "experts_only", "held_out"), ("watched_known", "watched_experts_only", "watched_unseen")


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    return [line.split("\t") for line in pairs.PATH.read_text(encoding="ascii").splitlines()]


def test_every_subject_is_in_one_list_and_in_eight_of_its_pairs(rows):
    lists = {name: Counter(code for row in rows if row[0] == name for code in row[1:]) for name in (*HELD_OUT, *WATCHED)}
    assert len(rows) == sum(map(len, lists.values())) * 4
    for name, codes in lists.items():
        assert len(codes) == (30 if name in WATCHED else 60) and set(codes.values()) == {8}
    assert len(set().union(*lists.values())) == sum(map(len, lists.values()))


def test_no_pair_is_listed_twice(rows):
    assert len({tuple(row[1:]) for row in rows}) == len(rows)


def test_held_out_pairs_are_of_held_out_subjects_and_no_other_list_has_one(rows):
    held = {s.code for s in data.subjects("held_out")}
    assert {code for row in rows if row[0] == "held_out" for code in row[1:]} == held
    assert not held & {code for row in rows if row[0] != "held_out" for code in row[1:]}


def test_the_base_sees_no_subject_that_only_experts_learn(rows):
    seen = {s.code for s in data.subjects("train")}
    assert not seen & {code for row in rows if "known" not in row[0] for code in row[1:]}


def test_a_scenes_caption_fills_a_chunk_a_subject(comfy_host, tmp_path):
    caption = pictures.caption(("twemoji, mango, food fruit", "twemoji, runner, person activity"))
    clip = hostrun.load(nodes := hostrun.start(tmp_path), "pocket_base")[1]
    ours = text.TextEncoder()
    from safetensors.torch import load_file

    words = load_file(common.WEIGHTS / "text_encoder.safetensors")
    ours.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in words.items()})
    ids = models.tokenize([("twemoji, mango, food fruit", "twemoji, runner, person activity")])
    with torch.inference_mode():
        theirs = nodes.CLIPTextEncode().encode(clip, caption)[0][0][0]
        torch.testing.assert_close(ours(ids[0]).flatten(0, 1)[None], theirs, atol=1e-4, rtol=1e-4)
