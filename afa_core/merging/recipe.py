"""Which model has what share in which part of a merge."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..numbers import parse_numbers
from .blocks import BASE, PRESETS, Blocks, preset_row

PREFIX = re.compile(r"[a-z_]+(\.[a-z0-9_]+)*\.?")


class MergeError(ValueError):
    """Weights that no merge can have; says which, what was expected and found."""


@dataclass(frozen=True)
class Recipe:
    """One share a model (they sum to 1) for every row: a block name, a prefix of the network's keys, or BASE.

    blocks: the prefixes of every block name
    """

    rows: dict[str, tuple[float, ...]]
    blocks: Blocks

    def shares(self, key: str) -> tuple[float, ...]:
        """The shares for a key of the network: the longest prefix that matches decides, as in the host."""
        return max(self._matches(key))[-1]

    def _matches(self, key: str):
        yield 0, False, self.rows[BASE]
        for row, shares in self.rows.items():
            named = row in self.blocks
            for prefix in self.blocks.get(row, (row,)):
                if row != BASE and key.startswith(prefix):
                    # Among equal prefixes the one that was spelled out wins over the one a block stands for.
                    yield len(prefix), not named, shares

    def unused(self, keys: Iterable[str]) -> list[str]:
        """Rows that were spelled out but are the beginning of none of the network's keys."""
        keys = list(keys)
        spelled = (row for row in self.rows if row != BASE and row not in self.blocks)
        return [row for row in spelled if not any(key.startswith(row) for key in keys)]

    def table(self) -> str:
        """The recipe as `parse_recipe` reads it."""
        return "\n".join(f"{row} {', '.join(f'{share:.6g}' for share in shares)}" for row, shares in self.rows.items())


def chain_ratios(shares: Sequence[float]) -> list[float]:
    """A merge of N as N-1 merges of two: for model 2..N, how much stays of what was merged before it.

    The k-th is sum_{j<k} w_j / sum_{j<=k} w_j; while no model has a weight yet, all stays.
    """
    ratios = []
    total = shares[0]
    for share in shares[1:]:
        ratios.append(total / (total + share) if share else 1.0)
        total += share
    return ratios


def stick_shares(ratios: Sequence[float]) -> tuple[float, ...]:
    """Shares of models 1..N from N-1 numbers of 0..1, each what the next model takes of those before it.

    With two models the one number is model_2's share: MBW's alpha.
    """
    shares = [1.0]
    for taken in ratios:
        shares = [share * (1 - taken) for share in shares] + [taken]
    return tuple(shares)


def normalised(weights: Sequence[float], models: int, where: str) -> tuple[float, ...]:
    """Weights scaled to a sum of 1. Raises MergeError unless there is one a model, none negative, not all 0."""
    if len(weights) != models:
        raise MergeError(f"{where}: {len(weights)} weights were found, but {models} models are connected: give one a model, decimals with a point as in 0.5.")
    if not all(math.isfinite(w) and w >= 0 for w in weights) or not sum(weights) > 0:
        raise MergeError(f"{where}: weights should be 0 or more and not all 0, found {', '.join(map(str, weights))}: correct them.")
    total = sum(weights)
    return tuple(w / total for w in weights)


def parse_recipe(weights: str, preset: str, table: str, models: int, blocks: Blocks) -> Recipe:
    """The recipe of three widgets; each is finer than the one before it and goes before it.

    weights: one number a model, or nothing for equal shares
    preset:  a name of PRESETS: how much each block takes of the other models, shared out as `weights` does;
             any other name is no preset
    table:   lines "NAME numbers", NAME a block (IN04), a range (IN04-IN08), a prefix (out.) or BASE, with one
             number a model; or, for two models, one line of as many numbers as there are blocks, as MBW tools
             write it, with or without BASE in front
    """
    found = parse_numbers("The weights", weights) or (1.0,) * models
    shares = normalised(found, models, "weights")
    rows = {BASE: shares}
    if preset in PRESETS:
        others = shares[1:] if sum(shares[1:]) else (1.0,) * (models - 1)
        for name, taken in zip(blocks, preset_row(preset, len(blocks)), strict=True):
            rows[name] = (1 - taken, *(taken * share / sum(others) for share in others))
    lines = [line.split("#")[0].strip() for line in table.splitlines()]
    for line in filter(None, lines):
        rows |= _line(line, models, blocks)
    return Recipe(rows, blocks)


def _line(line: str, models: int, blocks: Blocks) -> dict[str, tuple[float, ...]]:
    match = re.match(r"([A-Za-z_][\w.]*)(?:\s*-\s*([A-Za-z]\w*))?(?:\s*[:=,]\s*|\s+|$)", line)
    if match is None:
        return _classic(line, models, blocks)
    first, last = match.groups()
    where = f'The line "{line:.60}" of block_weights'
    shares = normalised(parse_numbers(where, line[match.end() :]), models, where)
    return dict.fromkeys(_rows(first, last, list(blocks)), shares)


def _rows(first: str, last: str | None, names: list[str]) -> list[str]:
    """The rows that a line names: a block or several, BASE, or a prefix of the network's keys."""
    if last is None and first.upper() not in names:
        if first.upper() == BASE:
            return [BASE]
        if PREFIX.fullmatch(first):
            return [first]
    first, last = first.upper(), (last or first).upper()
    unknown = [name for name in (first, last) if name not in names]
    if unknown:
        raise MergeError(
            f"block_weights names {unknown[0]}, which these models do not have: expected BASE, {names[0]} to "
            f"{names[-1]}, or the beginning of a layer's name such as time_embed."
        )
    start, end = names.index(first), names.index(last)
    return names[start : end + 1] if start <= end else names[end : start + 1]


def _classic(line: str, models: int, blocks: Blocks) -> dict[str, tuple[float, ...]]:
    """A row of MBW tools: model_2's share in every block."""
    alphas = parse_numbers(f'The line "{line:.60}" of block_weights', line)
    names = [BASE, *blocks][-len(alphas) :]
    if models != 2 or len(alphas) not in (len(blocks), len(blocks) + 1):
        raise MergeError(
            f'block_weights has the line "{line:.60}" without a name: expected lines such as "IN04 0.5, 0.5", or, for '
            f"two models, one line of {len(blocks)} numbers, decimals with a point."
        )
    if not all(0 <= alpha <= 1 for alpha in alphas):
        raise MergeError(f'block_weights expects numbers from 0 to 1, and its line "{line:.60}" has others: correct them.')
    return {name: (1 - alpha, alpha) for name, alpha in zip(names, alphas, strict=True)}
