"""docs/results/tables.md: in which order things are measured, and the words around the tables."""

from __future__ import annotations

from collections.abc import Iterator

from tests.pocket import common
from tests.pocket.scenes.aggregators import LOAD_BALANCE, SETTINGS, STEPS
from tests.pocket.scenes.world import SIZES

from . import words
from .fewer_steps import contenders, fewer_steps
from .limits import LIMIT, RIVALS, YES, limits
from .loss_tables import loss_table
from .markdown import table
from .measure import Rows, by_variant, loss_rows, picture_rows
from .numbers_of_experts import numbers_of_experts
from .oracle import ORACLE
from .paper import beside_ours, claims
from .picture_scores import SHOWN
from .picture_tables import picture_table, routing_table
from .questions import PAINTED, PairList, painted_list, pair_lists
from .search import METHODS, searched
from .systems import AVERAGES, EXTRAPOLATED, System, expert_name, systems
from .trained import ABLATIONS, FULL, OURS, missing, trained
from .world import World, trained_kinds

Sections = Iterator[tuple[str, str, str]]
"""(title, words, table)"""
EVERYWHERE = (
    "base", *map(expert_name, common.DOMAINS), "weighted merge", EXTRAPOLATED, "autoMBW (binary mid)", "MagicFusion, all three", "MaxFusion",
    *AVERAGES, ORACLE, OURS, FULL, "last point only", "without spatial location",
)  # fmt: skip
"""Rows that are painted, and whose loss is measured on every list; the others, and further seeds, are measured on the list
on which claims are judged."""


def document(world: World, names: list[str], arguments: str) -> str:
    """Measures what is not on disk yet, and writes it all down."""
    lists = pair_lists(world, names)
    worlds = {kind: world.of_kind(kind) for kind in trained_kinds()}
    aggregators = {kind: trained(w) for kind, w in worlds.items()}
    rows = {kind: systems(w, aggregators[kind]) for kind, w in worlds.items()}
    near = rows[world.kind]
    losses = {
        pairs.name: {
            kind: by_variant(loss_rows(w, asked_of(rows[kind], pairs), pairs))
            for kind, w in worlds.items()
            if kind == world.kind or pairs.name.endswith(PAINTED)
        }
        for pairs in lists
    }
    ours = reference([system.name for system in near])
    sections = [*_losses(near, lists, losses, ours)]
    shown = painted_list(world, names, world.budget.noises)
    if shown:
        (asked,) = [pairs for pairs in lists if pairs.name.endswith(PAINTED)]
        drawn = [system for system in near if system.name in EVERYWHERE]
        painted = picture_rows(world, drawn, shown, world.budget.steps)
        held = limits(near, losses[asked.name], asked, painted, shown, ours)
        holding = [line[-1] for line in held].count(YES)
        about = words.LIMITS.format(holding=holding, limits=len(held), losses=asked.title, painted=shown.title)
        racing = contenders(drawn, losses[asked.name][world.kind], ours)
        sections = [("What must hold", about, table(LIMIT, held)), *sections, *_pictures(drawn, painted, shown, ours)]
        sections.append(("Fewer steps", words.FEWER.format(ours=ours), fewer_steps(world, racing, shown)))
    for kind in rows.keys() - {world.kind}:
        sections += _pictures_beside(worlds[kind], rows[kind], names)
    sections.append(("Number of experts", words.NUMBERS, numbers_of_experts(world, lists)))
    budget = world.budget
    about = words.SEARCH.format(merges=budget.merges, pairs=budget.merge_pairs)
    sections.append(("What autoMBW found", about, _searches(world)))
    absent = [name for kind, w in worlds.items() for name in missing(w, aggregators[kind])]
    sections.append(
        ("How it was measured", words.measured(world, near, painted_list(world, names, noises=1), absent), "")
    )
    pages = (f"## {title}\n\n{text}\n\n{body}".rstrip() + "\n" for title, text, body in sections)
    return "\n".join([words.head(arguments), *pages])


def asked_of(rows: list[System], pairs: PairList) -> list[System]:
    """The rows whose loss is measured on a list: all where claims are judged."""
    return rows if pairs.name.endswith(PAINTED) else [system for system in rows if system.name in EVERYWHERE]


def reference(names: list[str]) -> str:
    """What the others are compared with: the default aggregator, or what stands in for it while it is not trained."""
    return next(name for name in (OURS, FULL, AVERAGES[0]) if name in names)


def _losses(near: list[System], lists: list[PairList], losses: dict[str, dict[str, Rows]], ours: str) -> Sections:
    for pairs in lists:
        found = losses[pairs.name]
        for kind, rows in found.items():
            verdicts = beside_ours(rows, claims(near, ours), "losses", pairs)
            yield f"The paper beside ours by noise loss, {kind} experts: {pairs.title}", words.PAPER, verdicts
    for pairs in lists:
        yield f"Noise loss: {pairs.title}", words.LOSS.format(ours=ours), loss_table(losses[pairs.name], pairs, ours)
    kept = {FULL, *ABLATIONS, *AVERAGES}
    for pairs in [pairs for pairs in lists if pairs.name.endswith(PAINTED)]:
        steps = " and ".join(f"{STEPS[kind]} steps ({kind} experts)" for kind in losses[pairs.name])
        about = words.ABLATIONS.format(steps=steps, batch=SETTINGS["batch_size"], settings=_settings())
        parts = {kind: {n: r for n, r in rows.items() if n in kept} for kind, rows in losses[pairs.name].items()}
        yield f"Ablations: {pairs.title}", about, loss_table(parts, pairs, FULL)


def _pictures(drawn: list[System], painted: Rows, shown: PairList, ours: str) -> Sections:
    verdicts = beside_ours(painted, claims(drawn, ours), SHOWN[-1], shown)
    yield f"The paper beside ours by both subjects right: {shown.title}", words.PAPER, verdicts
    yield f"Pictures: {shown.title}", words.PICTURES, picture_table(drawn, painted, shown, ours)
    yield f"Routing: {shown.title}", words.ROUTING, routing_table(painted, shown)


def _pictures_beside(world: World, rows: list[System], names: list[str]) -> Sections:
    """What other experts than near ones paint: the rows that the limit on pictures names."""
    shown = painted_list(world, names, world.budget.far_noises)
    if shown is None:
        return
    ours = reference([system.name for system in rows])
    drawn = [system for system in rows if system.name in (*RIVALS, ORACLE, ours)]
    painted = picture_rows(world, drawn, shown, world.budget.steps)
    title = f"{world.kind} experts, {shown.title}"
    about = words.BESIDE.format(noises=world.budget.far_noises)
    yield f"Pictures: {title}", about, picture_table(drawn, painted, shown, ours)
    yield f"Routing: {title}", words.ROUTING, routing_table(painted, shown)


def _settings() -> str:
    """Of every aggregator's training, beside the batch."""
    others = {name: value for name, value in SETTINGS.items() if name != "batch_size"}
    return ", ".join(f"{name} {value}" for name, value in {**SIZES, **others, "load_balance": LOAD_BALANCE}.items())


def _searches(world: World) -> str:
    """The first line of each node's report: its best score and that of equal shares."""
    reports = {name: searched(world, method)[1].splitlines()[:1] for name, method in METHODS.items()}
    return "\n".join(f"- {name}: {'; '.join(lines)}." for name, lines in reports.items())
