"""What the trained aggregator is worth on held-out emoji: python -m tests.pocket.results

Prints a table of held-out losses by domain, the paired differences with bootstrap intervals over subjects,
the share of the gap to the oracle that is realised, and whom the routing follows. Writes docs/pocket-results.md.
"""

import argparse
from collections import defaultdict

import torch

from . import aggregator, common, folder

LOOKS = 6
"""Draws of noise and timestep for every held-out picture."""


def evaluate(
    running, looks: int = LOOKS
) -> tuple[dict[str, torch.Tensor], list[str], list[str], dict[str, torch.Tensor]]:
    """(losses by row [items], domain of each item, subject of each item, mean shares by domain [N])."""
    from afa_core.aggregator_file import load_aggregator
    from afa_core.fusion import SABWFusion
    from afa_core.host.encoding import DatasetSettings, prepare_dataset
    from afa_core.host.experts import Expert
    from afa_core.host.training import HostExperts, outside_inference
    from afa_core.sabw import Aggregator
    from afa_core.training.objective import baseline_losses, held_out_draw, sample_loss
    from afa_core.training.prompt_folder import read_prompt_folder

    loaded = aggregator.load_experts(running)
    names = aggregator.MODELS
    experts = [Expert(model, name) for (model, _, _), name in zip(loaded, names, strict=True)]
    settings = DatasetSettings(resolution=common.SIZE, batch_size=32)
    dataset = prepare_dataset(experts, loaded[0][1], loaded[0][2], read_prompt_folder(folder.ensure()), settings)
    (merged,) = running.call("AFAMergeModels", **{f"model_{i}": e.patcher for i, e in enumerate(experts, start=1)})
    file = load_aggregator(common.WEIGHTS / "aggregator.safetensors")
    rows, shares, items = defaultdict(list), defaultdict(list), []
    with outside_inference(), torch.no_grad():
        alone = HostExperts([Expert(merged, "weighted merge")])
        alone.load([32, 4, 8, 8])
        batches = [
            (batch, held_out_draw(batch, look)) for look in range(looks) for batch in dataset.held_out_batches(32)
        ]
        for batch, draw in batches:
            rows["weighted merge"].append(sample_loss(alone, lambda point, features, state: features, batch, draw))
        frozen = HostExperts(experts)
        frozen.load([32, 4, 8, 8])
        module = Aggregator(file.config)
        module.load_state_dict({key: tensor.float() for key, tensor in file.state.items()})
        for batch, draw in batches:
            for name, losses in baseline_losses(frozen, batch, draw).items():
                rows[name].append(losses)
            seen = defaultdict(list)

            def observe(point, share, seen=seen):
                seen["shares"].append(share.float().mean((2, 3)))

            rows["AFA"].append(sample_loss(frozen, SABWFusion(module), batch, draw, observe))
            for index, share in zip(batch.items, torch.stack(seen["shares"]).mean(0), strict=True):
                shares[dataset.domain_of(index)].append(share)
            items += batch.items
    losses = {name: torch.cat(parts) for name, parts in rows.items()}
    domains = [dataset.domain_of(index) for index in items]
    subjects = [dataset.items[index].caption.split(", ", 1)[1] for index in items]
    losses["oracle"] = torch.stack([losses[f"pocket_{domain}"][i] for i, domain in enumerate(domains)])
    return losses, domains, subjects, {domain: torch.stack(rows).mean(0) for domain, rows in shares.items()}


def interval(difference: torch.Tensor, subjects: list[str], draws: int = 4000) -> tuple[float, float, float]:
    """(mean, low, high): 95 % bootstrap interval over subjects of a paired difference."""
    names = sorted(set(subjects))
    place = torch.tensor([names.index(subject) for subject in subjects])
    means = torch.zeros(len(names)).index_add_(0, place, difference) / torch.bincount(place, minlength=len(names))
    picks = torch.randint(len(names), (draws, len(names)), generator=torch.Generator().manual_seed(0))
    low, high = means[picks].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return means.mean().item(), low, high


def report(losses, domains, subjects, shares) -> str:
    masks = {domain: torch.tensor([d == domain for d in domains]) for domain in common.DOMAINS}
    free = ("weighted merge", "noise average", "block average")
    lines = ["| row | all | people | animals | things |", "|---|---|---|---|---|"]
    for name, row in losses.items():
        cells = [row.mean(), *(row[mask].mean() for mask in masks.values())]
        lines.append(f"| {name} | " + " | ".join(f"{cell:.4f}" for cell in cells) + " |")
    lines += ["", "| AFA against | difference | 95 % interval over subjects |", "|---|---|---|"]
    for name in (*aggregator.MODELS, *free, "oracle"):
        mean, low, high = interval(losses["AFA"] - losses[name], subjects)
        lines.append(f"| {name} | {mean:+.5f} | {low:+.5f} to {high:+.5f} |")
    best = min(free, key=lambda name: losses[name].mean())
    gap = losses[best].mean() - losses["oracle"].mean()
    realised = (losses[best].mean() - losses["AFA"].mean()) / gap
    lines += [
        "",
        f"AFA realises {realised:.0%} of the gap between {best} and the oracle (each domain by its own expert).",
    ]
    lines += ["", "| held-out pictures of | " + " | ".join(aggregator.MODELS) + " |", "|---" * 4 + "|"]
    for domain in common.DOMAINS:
        lines.append(f"| {domain} | " + " | ".join(f"{share:.3f}" for share in shares[domain]) + " |")
    return "\n".join(lines)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--looks", type=int, default=LOOKS)
    looks = ask.parse_args().looks
    table = report(*evaluate(aggregator.host(), looks))
    head = (
        "# The trained aggregator on held-out emoji\n\nPrinted by `python -m tests.pocket.results`: held-out loss (v-prediction), "
        f"60 subjects in three hands, {looks} fixed draws of noise and timestep each. Lower is better.\n\n"
    )
    (common.REPO / "docs").mkdir(exist_ok=True)
    (common.REPO / "docs" / "pocket-results.md").write_text(head + table + "\n")
    print(table)


if __name__ == "__main__":
    main()
