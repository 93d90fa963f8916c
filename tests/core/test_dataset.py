"""The order of batches, the split, and what a batch holds: a pure function of seed and step."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from afa_core.training.data.dataset import Batch, BatchPlan, DatasetItem, LatentDataset
from afa_core.training.data.joined import joined
from afa_core.training.data.prompt_folder import PromptFolder, PromptItem
from afa_core.training.data.split import FEWEST, held_out, subset
from afa_core.training.data.texts import of_rows, repeated, rows_alike


class Store:
    """Tensors that name their source: latents by (item, variant), texts by (expert, item)."""

    def __init__(self, items, width=4, label=False):
        self.items, self.width, self.label = items, width, label

    def latent(self, item, variant):
        return torch.full((2, *self.items[item].size), float(item + variant / 10))

    def text(self, expert, item, empty):
        length = 7 if empty else self.items[item].length
        value = -1.0 if empty else float(10 * expert + item)
        text = {"c_crossattn": torch.full((1, length, self.width), value)}
        return {**text, "y": torch.full((1, 3), value)} if self.label else text


def make_items(count, sizes=((8, 8),), repeats=(1,), length=7, domains=("",)):
    return [
        DatasetItem(
            f"key{i}", f"{i}.png", f"caption {i}", domains[i % len(domains)], repeats[i % len(repeats)],
            sizes[i % len(sizes)], length,
        )
        for i in range(count)
    ]  # fmt: skip


def make(items, experts=2, label=False, **plan):
    plan = {"seed": 1, "batch_size": 4, "caption_dropout": 0.0, **plan}
    return LatentDataset(items, Store(items, label=label), experts, BatchPlan(**plan))


# ---- order ----

orders = st.builds(
    lambda count, sizes, repeats: make_items(count, [(8, 8), (8, 4), (4, 8)][:sizes], repeats),
    st.integers(1, 30),
    st.integers(1, 3),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
)


@given(orders, st.integers(0, 2**31), st.integers(1, 9), st.integers(0, 300))
def test_a_step_says_its_batch_whatever_came_before(items, seed, batch_size, step):
    one, other = (make(items, seed=seed, batch_size=batch_size) for _ in range(2))
    for earlier in range(min(step, 5)):
        one.batch_indices(earlier)
    assert one.batch_indices(step) == other.batch_indices(step)


@given(orders, st.integers(1, 6))
def test_a_batch_is_of_one_shape_and_full(items, batch_size):
    dataset = make(items, batch_size=batch_size)
    for step in range(20):
        indices, _ = dataset.batch_indices(step)
        assert len(indices) == batch_size
        assert len({items[i].size for i in indices}) == 1


@given(orders, st.integers(1, 6))
def test_no_item_comes_again_before_all_of_its_shape_have_come(items, batch_size):
    dataset = make(items, batch_size=batch_size)
    drawn = {}
    for step in range(40):
        for i in dataset.batch_indices(step)[0]:
            drawn.setdefault(items[i].size, []).append(i)
    for size, sequence in drawn.items():
        once = Counter({i: item.repeats for i, item in enumerate(items) if item.size == size})
        whole = len(sequence) // once.total() * once.total()
        for start in range(0, whole, once.total()):
            assert Counter(sequence[start : start + once.total()]) == once


def test_in_the_long_run_every_item_is_drawn_as_often_as_its_repeats_say():
    items = make_items(23, sizes=[(8, 8), (8, 8), (8, 4)], repeats=[1, 3])
    dataset = make(items, batch_size=5)
    drawn = Counter(i for step in range(3000) for i in dataset.batch_indices(step)[0])
    share = 3000 * 5 / sum(item.repeats for item in items)
    for i, item in enumerate(items):
        assert drawn[i] == pytest.approx(share * item.repeats, rel=0.02)


def test_passes_and_seeds_differ_in_order():
    items = make_items(40)
    passes = [tuple(make(items, batch_size=40).batch_indices(step)[0]) for step in range(3)]
    seeds = [tuple(make(items, batch_size=40, seed=seed).batch_indices(0)[0]) for seed in range(3)]
    assert len({*passes, *seeds}) == 5  # seed 1 is in both


def test_variants_are_all_drawn():
    dataset = make(make_items(4), variants=3)
    seen = {pair for step in range(60) for pair in zip(*dataset.batch_indices(step), strict=True)}
    assert seen == {(item, variant) for item in range(4) for variant in range(3)}
    step = next(step for step in range(60) if dataset.batch_indices(step)[1][0] == 2)
    batch = dataset.train_batch(step)
    assert batch.latents[0, 0, 0, 0].item() == pytest.approx(batch.items[0] + 0.2)


# ---- batches ----


def test_a_batch_holds_latents_and_every_experts_texts():
    batch = make(make_items(12), experts=3, label=True).train_batch(5)
    assert batch.latents.shape == (4, 2, 8, 8) and batch.latents.dtype == torch.float32
    for place, item in enumerate(batch.items):
        assert batch.latents[place].unique().item() == item
        for expert, text in enumerate(batch.texts):
            assert text["c_crossattn"].shape == (4, 7, 4)
            assert text["c_crossattn"][place].unique().item() == 10 * expert + item
            assert text["y"][place].unique().item() == 10 * expert + item
    assert make(make_items(12)).train_batch(0).texts[0]["y"] is None


def test_captions_are_dropped_by_sample_for_all_experts_at_once():
    dataset = make(make_items(12), caption_dropout=0.25, batch_size=8)
    dropped = []
    for step in range(200):
        batch = dataset.train_batch(step)
        for text in batch.texts:
            assert torch.equal(text["c_crossattn"][:, 0, 0] == -1, batch.dropped)
        dropped.append(batch.dropped)
    dropped = torch.stack(dropped).float()
    assert dropped.mean().item() == pytest.approx(0.25, abs=0.03)
    assert ((dropped.sum(1) > 0) & (dropped.sum(1) < 8)).sum() > 100  # not whole batches
    again = make(make_items(12), caption_dropout=0.25, batch_size=8).train_batch(137).dropped
    assert torch.equal(again.float(), dropped[137])


def test_texts_keep_their_lengths():
    """Repeated to one they are the same to cross-attention; where repeated tokens count, they go apart."""
    items = make_items(4, length=14)
    dataset = make(items, caption_dropout=0.5, batch_size=8)
    batch = dataset.train_batch(next(s for s in range(9) if 0 < dataset.train_batch(s).dropped.sum() < 8))
    texts = [text["c_crossattn"] for text in batch.texts]
    assert all([part.shape[1] for part in text] == [7 if drop else 14 for drop in batch.dropped] for text in texts)
    assert {text["c_crossattn"].shape for text in repeated(batch.texts)} == {(8, 14, texts[0][0].shape[2])}
    groups = rows_alike(batch.texts, 8)
    assert sorted(groups) == sorted([batch.dropped.nonzero()[:, 0].tolist(), (~batch.dropped).nonzero()[:, 0].tolist()])
    for rows in groups:
        part = of_rows(batch.texts[0], rows)
        assert torch.equal(part["c_crossattn"], torch.cat([texts[0][row] for row in rows]))
        assert part["y"] is None or len(part["y"]) == len(rows)


def test_batches_are_normal_tensors_even_in_inference_mode():
    dataset = make(make_items(12), label=True)
    with torch.inference_mode():
        batch = dataset.train_batch(0)
    assert not batch.latents.is_inference()
    assert not any(tensor.is_inference() for text in batch.texts for tensor in text.values())
    (batch.latents * torch.ones(1, requires_grad=True)).sum().backward()


def test_a_batch_changes_all_its_tensors_and_nothing_else():
    batch = make(make_items(12)).train_batch(0)
    moved = batch.map(torch.Tensor.double)
    assert isinstance(moved, Batch) and moved.items == batch.items and moved.texts[0]["y"] is None
    assert {moved.latents.dtype, moved.texts[0]["c_crossattn"].dtype, moved.dropped.dtype} == {torch.float64}


# ---- held out ----


def test_held_out_items_are_never_trained_on_and_all_come_once():
    items = [replace(item, held_out=i % 5 == 0) for i, item in enumerate(make_items(23, sizes=[(8, 8), (4, 8)]))]
    dataset = make(items, caption_dropout=0.5)
    assert dataset.held_out_count == 5
    trained = {i for step in range(200) for i in dataset.batch_indices(step)[0]}
    assert trained == {i for i, item in enumerate(items) if not item.held_out}
    batches = list(dataset.held_out_batches(2))
    assert sorted(i for batch in batches for i in batch.items) == [0, 5, 10, 15, 20]
    assert all(len(batch.items) <= 2 and not batch.dropped.any() for batch in batches)
    assert [b.items for b in dataset.held_out_batches(2)] == [b.items for b in batches]


def test_a_dataset_without_anything_to_train_on_is_refused():
    with pytest.raises(ValueError, match="Nothing is left to train on"):
        make([replace(item, held_out=True) for item in make_items(3)])


@given(st.integers(0, 500), st.floats(0, 0.5), st.integers(0, 64), st.integers(1, 5))
def test_the_held_out_share(count, fraction, most, domains):
    keys = [f"picture {i}" for i in range(count)]
    kept = held_out(keys, [f"d{i % domains}" for i in range(count)], fraction, most)
    if count < FEWEST or not fraction or not most:
        assert not kept
    else:
        assert len(kept) == min(most, max(1, round(fraction * count)))


def test_every_domain_gets_its_share():
    keys = [f"{i}" for i in range(300)]
    domains = ["a"] * 200 + ["b"] * 80 + ["c"] * 20
    kept = held_out(keys, domains, 0.1, 64)
    assert Counter(domains[keys.index(key)] for key in kept) == {"a": 20, "b": 8, "c": 2}


def test_the_split_stays_as_a_folder_grows():
    keys = [f"{i}" for i in range(200)]
    before = held_out(keys, [""] * 200, 0.1, 64)
    after = held_out([*keys, *(f"new {i}" for i in range(20))], [""] * 220, 0.1, 64)
    assert len(before & after) >= 17
    assert held_out(keys[::-1], [""] * 200, 0.1, 64) == before


def test_equal_pictures_are_held_out_together():
    """Else the training would have seen what it is measured on."""
    keys = [f"{i % 10}" for i in range(40)]
    assert held_out(keys, [""] * 40, 0.1, 64) <= set(keys)
    assert len(held_out(keys, [""] * 40, 0.1, 64)) == 1


@pytest.mark.parametrize("listed", ["a cat", "sub/cat.png", "cat.png", "cat"])
def test_a_list_names_items_by_caption_or_file(listed):
    folder = PromptFolder(Path(), held_out=frozenset({listed, "other"}))
    assert folder.lists_as_held_out(PromptItem(None, "a cat", name="sub/cat.png"))
    assert not folder.lists_as_held_out(PromptItem(None, "a dog", name="sub/dog.png"))


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(0, 40))
def test_a_subset_is_even_among_the_domains(domains, limit):
    keys = [f"{i}" for i in range(len(domains))]
    chosen = subset(keys, domains, limit)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(limit, len(domains))
    counts, available = Counter(domains[i] for i in chosen), Counter(domains)
    fullest = max(counts.values(), default=0)
    assert all(counts[d] >= min(fullest - 1, available[d]) for d in available)


# ---- reports ----


def test_the_digest_tells_what_decides_about_batches():
    items = make_items(12)
    digests = [
        make(items).digest,
        make(items, seed=2).digest,
        make(items, batch_size=2).digest,
        make(items, caption_dropout=0.2).digest,
        make([*items[:-1], replace(items[-1], caption="other")]).digest,
        make([*items[:-1], replace(items[-1], held_out=True)]).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert make(make_items(12)).digest == digests[0]


def test_the_summary_says_what_was_left_out():
    dataset = make(make_items(12, sizes=[(8, 8), (4, 8)]))
    dataset.skipped = [("a.png", "is broken"), *((f"{i}.png", "has an empty caption") for i in range(6))]
    text = dataset.summary()
    assert text.startswith("12 pictures in 2 shapes, 0 held out, 7 left out: a.png is broken, 0.png has")
    assert text.endswith("...")


def test_lengths_are_mixed_where_experts_can_and_apart_where_items_are_measured():
    items = [replace(item, length=7 + i, held_out=i % 5 == 0) for i, item in enumerate(make_items(20))]
    apart, mixed = (replace(make(items), mixes_lengths=mixes) for mixes in (False, True))
    assert len(set(apart.batch_indices(0)[0])) == 1 and len(set(mixed.batch_indices(0)[0])) == 4
    for data in (apart, mixed):
        assert [len(batch.items) for batch in data.held_out_batches(4)] == [1] * 4
    assert apart.digest == make(items).digest != mixed.digest


@pytest.mark.parametrize(
    ("pictures", "prompts", "share"), [(20, 500, 0.25), (30, 2000, 0.25), (100, 7, 0.9), (50, 50, 0.5), (20, 500, 0.0), (500, 20, 1.0)]
)
def test_the_share_of_paintings_is_what_is_asked_for(pictures, prompts, share):
    """Of 0 and of 1, one part is measured on alone."""
    parts = []
    for count in (pictures, prompts):
        items = make_items(count + 2)
        parts.append(make([replace(item, held_out=i < 2, domain=str(count)) for i, item in enumerate(items)]))
    data = joined(*parts, share)
    assert data.held_out_count == 4
    trained = [item for item in data.items if not item.held_out]
    painted = sum(item.repeats for item in trained[len(trained) - prompts * (share > 0) :])
    assert painted / sum(item.repeats for item in trained) == pytest.approx(share, abs=0.005)
    assert data.store.latent(0, 0).shape == data.store.latent(len(data.items) - 1, 0).shape
