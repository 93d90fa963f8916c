"""Searched merges: the strategies on functions with known optima, and the journal under interruptions."""

import json
import math
from statistics import fmean

import pytest

from afa_core.host.architectures.unet_layout import unet_merge_blocks
from afa_core.merging.journal import Journal, run_search
from afa_core.merging.recipe import MergeError
from afa_core.merging.search import TALLIES, SearchSpace, binary_mid, cma_es, geometric, harmonic

SD15 = SearchSpace(2, unet_merge_blocks(12, 12))


def answer_all(strategy, score, limit):
    """Everything a strategy asks for, at most `limit` times."""
    asked = [next(strategy)]
    try:
        while len(asked) < limit:
            asked.append(strategy.send(score(asked[-1])))
    except StopIteration:
        pass
    return asked


def bowl(target):
    """Two pictures' scores that are best at `target`, different everywhere else."""
    return lambda vector: [
        3 - math.dist(vector, target) ** 2 / len(vector),
        2 - math.dist(vector, target) / len(vector),
    ]


# ---- the space ----


def test_the_space_of_two_models_is_mbw():
    assert SD15.size == 25
    recipe = SD15.recipe(tuple(i / 25 for i in range(25)))
    assert recipe.shares("middle_block.0.x") == (1 - 12 / 25, 12 / 25)
    assert recipe.shares("output_blocks.11.x") == (1 - 24 / 25, 24 / 25)


def test_uniform_is_an_equal_share():
    for models in (2, 3, 5):
        space = SearchSpace(models, unet_merge_blocks(9, 9))
        assert space.recipe(space.uniform).shares("input_blocks.3.x") == pytest.approx([1 / models] * models)


def test_autombws_order_is_middle_then_pairs():
    groups = SD15.groups()
    assert groups[:3] == [[12], [0, 1], [2, 3]]
    assert groups[-1] == [23, 24]
    assert len(groups) == 13  # its fourteenth is base_alpha
    for space in (SD15, SearchSpace(3, unet_merge_blocks(9, 9))):
        assert sorted(i for group in space.groups() for i in group) == list(range(space.size))


# ---- the strategies ----


@pytest.mark.parametrize("best", range(11))
def test_binary_mid_finds_the_top_of_one_hill(best):
    """One coordinate with everything else fixed: the grid's best value, in 5 to 7 evaluations."""
    tried = []

    def score(vector):
        value = vector[12]
        if vector[:12] + vector[13:] == SD15.uniform[1:]:
            tried.append(value)
            return [10 - abs(value - best / 10)]
        return [0.0]

    strategy = binary_mid(SD15)
    vector = next(strategy)
    while vector[:12] + vector[13:] == SD15.uniform[1:]:
        vector = strategy.send(score(vector))
    assert max(tried, key=lambda value: 10 - abs(value - best / 10)) == best / 10
    assert vector[12] == best / 10
    assert 5 <= len(set(tried)) <= 7


def test_binary_mid_climbs_a_bowl_within_autombws_number_of_merges():
    target = tuple(0.2 + 0.6 * ((i // 2) % 2) for i in range(25))
    target = target[:12] + (0.7,) + target[12:24]
    score = bowl(target)
    asked = answer_all(binary_mid(SD15), score, 1000)
    assert len(set(asked)) == len(asked)
    assert 80 <= len(asked) <= 280
    best = max(asked, key=lambda vector: fmean(score(vector)))
    assert math.dist(best, target) < 0.35
    assert fmean(score(best)) > fmean(score(SD15.uniform))


def test_cma_es_climbs_a_bowl_with_a_twist():
    """Blocks that belong together: what moves one at a time has to zigzag."""
    target = tuple(0.3 + 0.02 * i for i in range(25))

    def score(vector):
        mean = sum(v - t for v, t in zip(vector, target, strict=True)) / 25
        return [-(math.dist(vector, target) ** 2) - 25 * mean**2]

    asked = answer_all(cma_es(SD15, seed=3), score, 400)
    assert asked[0] == SD15.uniform
    assert all(0 <= value <= 1 for vector in asked for value in vector)
    best = max(score(vector)[0] for vector in asked)
    assert best > 0.1 * score(SD15.uniform)[0]


@pytest.mark.parametrize("make", [lambda: binary_mid(SD15), lambda: cma_es(SD15, seed=5)])
def test_the_same_answers_lead_to_the_same_questions(make):
    score = bowl((0.4,) * 25)
    assert answer_all(make(), score, 60) == answer_all(make(), score, 60)


def test_tallies():
    scores = [1.0, 2.0, 4.0]
    assert [tally(scores) for tally in TALLIES] == pytest.approx([7 / 3, 2.0, 12 / 7])
    assert harmonic(scores) < geometric(scores) < fmean(scores)
    assert geometric([3.0, -1.0]) == harmonic([3.0, 0.0]) == 0


# ---- the journal ----


class Stopped(BaseException):
    pass


def test_a_stopped_search_goes_on_and_ends_the_same(tmp_path):
    score = bowl((0.8,) * 25)
    whole = Journal(tmp_path / "whole.json", SD15, {"seed": 1})
    run_search(cma_es(SD15, 1), whole, score, 40)

    path = tmp_path / "parts.json"
    for stop_after in (1, 7, 20, 100):
        journal = Journal(path, SD15, {"seed": 1})
        calls = []

        def evaluate(vector, calls=calls, limit=stop_after):
            calls.append(vector)
            if len(calls) > limit:
                raise Stopped
            return score(vector)

        try:
            run_search(cma_es(SD15, 1), journal, evaluate, 40)
        except Stopped:
            on_disk = json.loads(path.read_text())  # whole, and with a recipe that can be used
            assert len(on_disk["tried"]) == len(journal.tried)
            assert len(on_disk["best"]["block_weights"]) == 26
    assert list(journal.tried) == list(whole.tried)
    assert journal.best == whole.best
    assert not [file for file in tmp_path.iterdir() if file.suffix != ".json"]


def test_the_budget_counts_what_was_tried_before(tmp_path):
    score = bowl((0.8,) * 25)
    for budget, expected in ((5, 5), (5, 5), (9, 9)):
        journal = Journal(tmp_path / "x.json", SD15, {})
        run_search(binary_mid(SD15), journal, score, budget)
        assert len(journal.tried) == expected


def test_a_finished_search_ends(tmp_path):
    journal = Journal(tmp_path / "x.json", SD15, {})
    run_search(binary_mid(SD15), journal, bowl((0.5,) * 25), 10_000)
    assert len(journal.tried) < 280


def test_another_searchs_scores_are_not_taken(tmp_path):
    path = tmp_path / "x.json"
    run_search(binary_mid(SD15), Journal(path, SD15, {"prompts": ["a"]}), bowl((0.5,) * 25), 5)
    assert len(Journal(path, SD15, {"prompts": ["a"]}).tried) == 5
    assert Journal(path, SD15, {"prompts": ["b"]}).tried == {}
    path.write_text("{")
    with pytest.raises(MergeError, match="x.json is damaged"):
        Journal(path, SD15, {})
