"""docs/results/tables.md: in which order things are measured, and the words around the tables."""

from __future__ import annotations

from . import trainings, words
from .fewer_steps import contenders, fewer_steps
from .loss_tables import loss_table
from .measure import Rows, loss_rows, picture_rows
from .numbers_of_experts import numbers_of_experts
from .paper import beside_ours
from .picture_tables import EACH, picture_table
from .questions import PictureSet, picture_sets
from .search import METHODS, searched, subjects
from .systems import AFA, System, systems
from .trainings import ABLATIONS, CHANGES, FULL
from .world import World


def document(world: World) -> str:
    """Measures what is not on disk yet, what needs no training first, and writes it all down."""
    sets, rows = picture_sets(world), systems(world)
    for pictures in sets:
        loss_rows(world, [s for s in rows if not s.trained or s.name == AFA], pictures)
    trainings.train_all(world)
    losses = [loss_rows(world, rows, pictures) for pictures in sets]
    painted = [picture_rows(world, rows, sets[0], world.budget.steps)]
    racing = contenders(rows, losses[0], sets[0])
    last = [
        ("Fewer steps, held-out names", words.FEWER, fewer_steps(world, racing, sets[0])),
        ("Number of experts", words.NUMBERS, numbers_of_experts(world, sets)),
        ("What autoMBW found", _about_searches(world), _searches(world)),
    ]
    painted += [picture_rows(world, rows, s, world.budget.steps) for s in sets[1 : world.budget.painted_sets]]
    parts = [words.head(world, rows, sets)]
    parts += [_section(*section) for section in _by_set(world, rows, losses, painted, sets)]
    parts += [_section(*section) for section in last]
    return "\n".join(parts)


def _by_set(world: World, rows: list[System], losses: list[Rows], painted: list[Rows], sets: list[PictureSet]):
    """(title, words, table) of the paper's claims, the systems and the ablations, on each set."""
    brief = words.ABLATIONS.format(steps=world.budget.training_steps, batch=CHANGES["batch_size"])
    for number, (s, by_loss) in enumerate(zip(sets, losses, strict=True)):
        claims = [f"By noise loss:\n\n{beside_ours(by_loss, 'losses', True, [p.subject for p in s.pictures])}"]
        for metric in EACH if number < len(painted) else ():
            verdicts = beside_ours(painted[number], metric, False, [p.subject for p in s.painted])
            claims.append(f"By {metric}:\n\n{verdicts}")
        yield f"The paper beside ours: {s.title}", words.PAPER, "\n\n".join(claims)
    for s, found in zip(sets, losses, strict=True):
        yield f"Noise loss: {s.title}", words.LOSS, loss_table(found, s, AFA)
    for s, found in zip(sets, losses, strict=True):
        parts = {name: found[name] for name in (*ABLATIONS, "block average", "noise average")}
        yield f"Ablations: {s.title}", brief, loss_table(parts, s, FULL)
    for s, found in zip(sets, painted, strict=False):
        yield f"Pictures: {s.title}", words.PICTURES, picture_table(rows, found, s)


def _section(title: str, text: str, table: str) -> str:
    return f"## {title}\n\n{text}\n\n{table}\n"


def _searches(world: World) -> str:
    """The first line of each node's report: its best score and that of equal shares."""
    reports = {name: searched(world, method)[1].splitlines()[:2] for name, method in METHODS.items()}
    return "\n".join(f"- {name}: {'; '.join(lines)}." for name, lines in reports.items())


def _about_searches(world: World) -> str:
    budget = world.budget
    return words.SEARCH.format(merges=budget.merges, names=len(subjects(budget.merge_subjects)))
