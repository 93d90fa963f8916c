"""What the trained aggregator is worth: python -m tests.pocket.results

Losses by domain on held-out subjects and on subjects that the experts know, paired differences with bootstrap
intervals over subjects, the share of the gap to the oracle, and which expert the routing follows. Writes
docs/results/pocket-results.md.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from . import aggregator, common, folder

LOOKS = 4
"""Draws of noise and timestep for every picture."""
SHIPPED = {"AFA": common.WEIGHTS / "aggregator.safetensors"}
WATCHED = "The tenth of the training folder that was watched in training"
FREE = ("weighted merge", "noise average", "block average")
TRUST = 0.7
"""Share of the right expert in the rows of oracles by domain."""
ORACLES = {False: f"oracle by domain, predictions ({TRUST})", True: f"oracle by domain, every block ({TRUST})"}


@dataclass
class Results:
    """losses: by row, one an item and look; shares: the mean share of each expert by domain."""

    losses: dict[str, torch.Tensor]
    domains: list[str]
    subjects: list[str]
    shares: dict[str, torch.Tensor]

    def mask(self, domain: str) -> torch.Tensor:
        return torch.tensor([d == domain for d in self.domains])


def evaluate(running, pictures: Path, looks: int, trained: dict[str, Path] = SHIPPED) -> Results:
    """Every row on all items of a prompt folder, same draws for all; shares are of the last aggregator."""
    from afa_core.aggregator.file import load_aggregator
    from afa_core.fusion.sabw_fusion import SABWFusion
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.encoding import DatasetSettings, prepare_dataset
    from afa_core.host.training.frozen_experts import HostExperts, outside_inference
    from afa_core.training.data.prompt_folder import read_prompt_folder
    from afa_core.training.draw import held_out_draw
    from afa_core.training.objective import baseline_losses, sample_loss

    loaded = aggregator.load_experts(running)
    experts = [Expert(model, name) for (model, _, _), name in zip(loaded, aggregator.MODELS, strict=True)]
    settings = DatasetSettings(resolution=common.SIZE, batch_size=32, held_out=0.0)
    dataset = prepare_dataset(experts, loaded[0][1], loaded[0][2], read_prompt_folder(pictures), settings)
    everything = list(range(len(dataset.items)))
    (merged,) = running.call("AFAMergeModels", **{f"model_{i}": e.patcher for i, e in enumerate(experts, start=1)})
    rows, shares, items = defaultdict(list), defaultdict(list), []
    with outside_inference(), torch.no_grad():
        batches = [dataset.batch_of(everything[start : start + 32]) for start in range(0, len(everything), 32)]
        draws = [(batch, held_out_draw(batch, look)) for look in range(looks) for batch in batches]
        alone = HostExperts([Expert(merged, "weighted merge")])
        alone.load([32, 4, 8, 8])
        for batch, draw in draws:
            own = replace(batch, texts=batch.texts[:1])  # one text encoder serves all three
            rows["weighted merge"].append(sample_loss(alone, lambda point, features, state: features, own, draw))
        frozen = HostExperts(experts)
        frozen.load([32, 4, 8, 8])
        modules = {name: _module(load_aggregator(path)) for name, path in trained.items()}
        for batch, draw in draws:
            for name, losses in baseline_losses(frozen, batch, draw).items():
                rows[name].append(losses)
            named = [dataset.domain_of(index) for index in batch.items]
            for everywhere, name in ORACLES.items():
                rows[name].append(sample_loss(frozen, _told(named, everywhere), batch, draw))
            for name, module in modules.items():
                seen: list[torch.Tensor] = []

                def observe(point, share, seen=seen):
                    seen.append(share.float().mean((2, 3)))

                rows[name].append(sample_loss(frozen, SABWFusion(module), batch, draw, observe))
            for index, share in zip(batch.items, torch.stack(seen).mean(0), strict=True):
                shares[dataset.domain_of(index)].append(share)
            items += batch.items
    losses = {name: torch.cat(parts) for name, parts in rows.items()}
    domains = [dataset.domain_of(index) for index in items]
    subjects = [dataset.items[index].caption.split(", ", 1)[1] for index in items]
    losses["oracle"] = torch.stack([losses[f"pocket_{domain}"][i] for i, domain in enumerate(domains)])
    return Results(losses, domains, subjects, {name: torch.stack(parts).mean(0) for name, parts in shares.items()})


def _told(domains: list[str], everywhere: bool):
    """The fusion that knows the domain of every picture and looks at nothing else: of all blocks, or of predictions."""
    from afa_core.fusion.fusion import fuse, logits_of

    own = torch.tensor([[domain == d for d in common.DOMAINS] for domain in domains])
    shares = torch.where(own, TRUST, (1 - TRUST) / (len(common.DOMAINS) - 1))[:, :, None, None]

    def fusion(point, features, state):
        return fuse(point, features, logits_of(shares), state) if everywhere or point.is_prediction else features

    return fusion


def _module(file):
    from afa_core.aggregator.sabw import Aggregator

    module = Aggregator(file.config)
    module.load_state_dict({key: tensor.float() for key, tensor in file.state.items()})
    return module


def interval(difference: torch.Tensor, subjects: list[str], draws: int = 4000) -> tuple[float, float, float]:
    """(mean, low, high): 95 % bootstrap interval over subjects of a paired difference."""
    names = sorted(set(subjects))
    place = torch.tensor([names.index(subject) for subject in subjects])
    means = torch.zeros(len(names)).index_add_(0, place, difference) / torch.bincount(place, minlength=len(names))
    picks = torch.randint(len(names), (draws, len(names)), generator=torch.Generator().manual_seed(0))
    low, high = means[picks].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return means.mean().item(), low, high


def report(results: Results) -> str:
    losses = results.losses
    masks = [results.mask(domain) for domain in common.DOMAINS]
    lines = ["| row | all | people | animals | things |", "|---|---|---|---|---|"]
    for name, row in losses.items():
        cells = [row.mean(), *(row[mask].mean() for mask in masks)]
        lines.append(f"| {name} | " + " | ".join(f"{cell:.4f}" for cell in cells) + " |")
    lines += ["", "| AFA against | difference | 95 % interval over subjects |", "|---|---|---|"]
    lines += [_difference(results, name, "AFA", name) for name in (*aggregator.MODELS, *FREE, "oracle")]
    lines += ["", "| against the noise average | difference | 95 % interval over subjects |", "|---|---|---|"]
    lines += [_difference(results, name, name, "noise average") for name in ("AFA", *ORACLES.values())]
    best = min(FREE, key=lambda name: losses[name].mean())
    gap, won = ((losses[best].mean() - losses[name].mean()).item() for name in ("oracle", "AFA"))
    lines += [
        "",
        f"The best row without training is {best}; against it AFA is {_percent(-won / losses[best].mean().item())}, and",
    ]
    lines += [f"the oracle (each domain by its own expert) {_percent(-gap / losses[best].mean().item())}."]
    if gap > 0:
        lines += [f"AFA realises {won / gap:.0%} of that gap."]
    lines += ["", "| mean share on | " + " | ".join(aggregator.MODELS) + " |", "|---" * 4 + "|"]
    for domain in common.DOMAINS:
        lines.append(f"| {domain} | " + " | ".join(f"{share:.3f}" for share in results.shares[domain]) + " |")
    return "\n".join(lines)


def _difference(results: Results, title: str, row: str, other: str) -> str:
    mean, low, high = interval(results.losses[row] - results.losses[other], results.subjects)
    return f"| {title} | {mean:+.5f} | {low:+.5f} to {high:+.5f} |"


def _percent(change: float) -> str:
    return f"{abs(change):.1%} {'lower' if change < 0 else 'higher'}"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--looks", type=int, default=LOOKS)
    looks = ask.parse_args().looks
    running = aggregator.host()
    text = (
        "# The trained aggregator on pocket experts\n\nPrinted by `python -m tests.pocket.results`: loss of the v-prediction, "
        f"{looks} fixed draws of noise and timestep for every picture, each subject in three hands. Lower is better. "
        f"Oracles by domain give {TRUST} to its expert everywhere and share the rest: what is there to win by "
        "knowing nothing else.\n"
    )
    for title, pictures in (
        ("Held-out subjects, which nothing was trained on", folder.held_out()),
        (WATCHED, folder.watched()),
        ("Subjects that the experts know, and the aggregator does not", folder.known()),
    ):
        text += f"\n## {title}\n\n{report(evaluate(running, pictures, looks))}\n"
    (common.REPO / "docs" / "results" / "pocket-results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
