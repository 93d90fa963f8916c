"""Recipes of merges: shares, blocks, presets and the table of weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afa_core.host.architectures.unet_layout import unet_merge_blocks
from afa_core.merging.blocks import PRESETS, preset_row
from afa_core.merging.recipe import chain_ratios, parse_recipe, stick_shares


def recipe(weights="", preset="none", table="", models=2, inputs=12, outputs=12):
    return parse_recipe(weights, preset, table, models, unet_merge_blocks(inputs, outputs))


@given(st.lists(st.floats(0, 10), min_size=2, max_size=8).filter(lambda w: sum(w) > 1e-3))
def test_a_chain_of_pairs_gives_every_model_its_share(weights):
    total = sum(weights)
    kept = [1.0]
    for ratio in chain_ratios([w / total for w in weights]):
        kept = [share * ratio for share in kept] + [1 - ratio]
    assert kept == pytest.approx([w / total for w in weights], abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_sticks_are_a_chain_read_backwards(taken):
    shares = stick_shares(taken)
    assert sum(shares) == pytest.approx(1)
    assert all(share >= 0 for share in shares)
    assert stick_shares([0.3]) == (0.7, 0.3)


def test_blocks_of_sd15_and_sdxl():
    sd15, sdxl = unet_merge_blocks(12, 12), unet_merge_blocks(9, 9)
    assert len(sd15) == 25
    assert list(sd15)[:2] + list(sd15)[11:14] == ["IN00", "IN01", "IN11", "M00", "OUT00"]
    assert len(sdxl) == 19
    assert sdxl["OUT08"] == ("output_blocks.8.", "out.")


@pytest.mark.parametrize(
    ("key", "row"),
    [
        ("input_blocks.1.0.in_layers.0.weight", "IN01"),
        ("input_blocks.11.0.op.weight", "IN11"),
        ("middle_block.1.norm.weight", "M00"),
        ("output_blocks.11.0.out_layers.3.bias", "OUT11"),
        ("out.2.weight", "OUT11"),
        ("time_embed.0.weight", "IN00"),
        ("label_emb.0.0.weight", "IN00"),
    ],
)
def test_every_layer_belongs_to_its_block(key, row):
    found = recipe(table=f"{row} 0.25, 0.75")
    assert found.shares(key) == (0.25, 0.75)
    assert found.shares("somewhere.else") == (0.5, 0.5)


def test_the_finer_row_goes_first():
    found = recipe("3, 1", "FLAT_25", "BASE 0 1\nin00-in02: 1 0 # keep\ntime_embed. 0, 1\nmiddle_block.1. = 1, 1")
    assert found.shares("input_blocks.2.1.proj_in.weight") == (1, 0)
    assert found.shares("input_blocks.3.0.op.weight") == (0.75, 0.25)
    assert found.shares("time_embed.0.weight") == (0, 1)
    assert found.shares("middle_block.0.in_layers.0.weight") == (0.75, 0.25)
    assert found.shares("middle_block.1.norm.weight") == (0.5, 0.5)
    assert found.shares("nowhere") == (0, 1)


def test_a_preset_shares_out_among_the_others():
    found = recipe("1, 3, 1", "FLAT_75", models=3)
    assert found.shares("input_blocks.5.0.weight") == pytest.approx((0.25, 0.5625, 0.1875))


def test_classic_rows():
    numbers = [i / 25 for i in range(25)]
    row = ", ".join(map(str, numbers))
    for text in (row, "0.5, " + row):
        found = recipe(table=text)
        assert found.shares("middle_block.0.in_layers.0.bias") == (1 - numbers[12], numbers[12])
        assert found.shares("output_blocks.11.0.weight") == (1 - numbers[24], numbers[24])


def test_the_written_table_reads_back():
    found = recipe("2, 1, 1", "COSINE", "time_embed. 0.2, 0.3, 0.5", models=3)
    again = recipe(table=found.table(), models=3)
    for key in ("input_blocks.7.0.weight", "time_embed.2.bias", "nothing"):
        assert again.shares(key) == pytest.approx(found.shares(key), abs=1e-5)


PUBLISHED = {
    "WRAP08": "1 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 1 1 1",
    "WRAP12": "1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 1 1 1 1 1 1",
    "WRAP14": "1 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 0 0 1 1 1 1 1 1 1",
    "WRAP16": "1 1 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 1 1 1 1 1 1 1 1",
    "MID12_50": "0 0 0 0 0 .5 .5 .5 .5 .5 .5 .5 .5 .5 .5 .5 .5 .5 .5 0 0 0 0 0 0",
    "OUT07": "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 1 1 1 1 1 1",
    "OUT12": "0 0 0 0 0 0 0 0 0 0 0 0 0 1 1 1 1 1 1 1 1 1 1 1 1",
    "OUT12_5": "0 0 0 0 0 0 0 0 0 0 0 0 .5 1 1 1 1 1 1 1 1 1 1 1 1",
    "RING08_SOFT": "0 0 0 0 0 .5 1 1 1 .5 0 0 0 0 0 .5 1 1 1 .5 0 0 0 0 0",
    "RING08_5": "0 0 0 0 0 0 1 1 1 1 0 0 0 0 0 1 1 1 1 0 0 0 0 0 0",
    "RING10_5": "0 0 0 0 0 1 1 1 1 1 0 0 0 0 0 1 1 1 1 1 0 0 0 0 0",
    "RING10_3": "0 0 0 0 0 0 1 1 1 1 1 0 0 0 1 1 1 1 1 0 0 0 0 0 0",
}
"""The rows of the merge-block-weighted extension, csv/preset.tsv."""


def test_preset_values():
    thirds = preset_row("GRAD_V", 25)
    assert thirds[:3] == pytest.approx([1, 0.9166666667, 0.8333333333])
    assert (thirds[12], thirds[24]) == (0, 1)
    for name, published in PUBLISHED.items():
        assert preset_row(name, 25) == [float(value) for value in published.split()], name
    assert preset_row("COSINE", 25)[1] == pytest.approx(0.995722430686905)
    assert preset_row("SMOOTHSTEP", 25)[1] == pytest.approx(0.00506365740740741)
    assert preset_row("SMOOTHSTEP_2", 25)[12] == 1
    for name in PRESETS:
        for blocks in (19, 25):
            row = preset_row(name, blocks)
            assert len(row) == blocks
            assert 0 <= min(row) <= max(row) <= 1


@pytest.mark.parametrize(
    ("widgets", "words"),
    [
        ({"weights": "1, 2, 3"}, "weights: 3 weights were found, but 2 models"),
        ({"weights": "1, minus"}, "found '1, minus'"),
        ({"weights": "1, -1"}, "0 or more"),
        ({"weights": "0 0"}, "not all 0"),
        ({"weights": "nan 1"}, "0 or more"),
        ({"table": "IN12 1, 1"}, "names IN12"),
        ({"table": "IN00-OUT12 1, 1"}, "names OUT12"),
        ({"table": "IN04 1"}, "1 weights were found, but 2 models"),
        ({"table": "0.1, 0.2"}, "without a name"),
        ({"weights": "0,5; 0,5"}, "4 weights were found, .* decimals with a point"),
        ({"table": "IN04 0,5 0,5"}, "4 weights were found, .* decimals with a point"),
        ({"table": ", ".join(["0,5"] * 25)}, "decimals with a point"),
        ({"table": ", ".join(["2"] * 25)}, "from 0 to 1"),
    ],
)
def test_bad_weights_are_reported(widgets, words):
    with pytest.raises(ValueError, match=words):
        recipe(**widgets)
