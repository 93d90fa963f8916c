"""The networks of the scenes: which weights they start from, and captions of one or two subjects as context."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from .. import common, data, diffusion, others, packing, text
from ..dit import network
from . import low_rank, pictures

WEIGHTS = common.WEIGHTS / "scenes"
KINDS = ("near", "far", "lora")


class Both(torch.nn.Module):
    """Text encoder and U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.text = text.TextEncoder(vocabulary())
        self.unet = diffusion.unet.build()

    def context(self, ids: torch.Tensor, unknown: float = 0.0) -> torch.Tensor:
        """Token ids [B, chunks, 24] -> [B, chunks * 24, 64]; `unknown`: share of words made unknown."""
        return self.text(ids.flatten(0, 1), unknown).view(len(ids), -1, self.text.tokens.shape[-1])


def vocabulary() -> torch.Tensor:
    """That of the base of single pictures, and the words of the subjects that only experts learn.

    A text encoder knows more words than its base can paint.
    """
    more = data.captions([s for domain in common.DOMAINS for s in others.of_experts(domain)], common.HANDS)
    return torch.cat([text.vocabulary(), text.tokenize(more).unique()]).unique()


def tokenize(captions: list[tuple[str, ...]]) -> torch.Tensor:
    """-> [M, chunks, 24]"""
    chunks = [chunk for parts in captions for chunk in pictures.caption(parts).split(pictures.SEPARATOR)]
    return text.tokenize(chunks).unflatten(0, (len(captions), -1))


def first() -> Both:
    """The base of single pictures, which has yet to learn places; words it has never read get rows drawn at random."""
    both, (old, unet) = Both(), diffusion.trained()
    both.unet.load_state_dict(unet)
    rows, new = old["tokens"], both.text.tokens.data
    new.copy_(rows[-1] + rows.std(0) * torch.randn(new.shape, generator=torch.Generator().manual_seed(common.SEED)))
    new[torch.searchsorted(both.text.vocabulary, old["vocabulary"])] = rows[:-1]
    new[-1] = rows[-1]
    both.text.load_state_dict(old | {"tokens": new, "vocabulary": both.text.vocabulary})
    return both


def base() -> Both:
    """The committed base of scenes with its text encoder, without gradients."""
    both = Both()
    both.unet.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS / "base.safetensors").items()})
    words = load_file(WEIGHTS / "text_encoder.safetensors")
    both.text.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in words.items()})
    return both.eval().requires_grad_(False)


def expert(kind: str, domain: str) -> Both:
    both = base()
    packed = load_file(expert_path(kind, domain))
    if kind == "lora":
        low_rank.merge(both.unet, packed)
        return both
    both.unet.load_state_dict(
        {k: v.float() for k, v in packing.unpack(packed, load_file(WEIGHTS / "base.safetensors")).items()}
    )
    return both


def expert_path(kind: str, domain: str) -> Path:
    return WEIGHTS / f"{kind}_{domain}.safetensors"


def moves(kind: str) -> dict[str, float]:
    """How far the experts have moved from their base: length over that of the base, and mean cosine between two moves."""
    start, *experts = map(_flat, _networks(kind))
    apart = [expert - start for expert in experts]
    cosines = [torch.cosine_similarity(a, b, dim=0) for i, a in enumerate(apart) for b in apart[:i]]
    length = torch.stack(apart).norm(dim=1).mean() / start.norm()
    return {"length": length.item(), "cosine": torch.stack(cosines).mean().item()}


def _networks(kind: str) -> list[torch.nn.Module]:
    """The base's, and the experts'."""
    if kind == "dit":
        return [network.base(), *map(network.expert, common.DOMAINS)]
    return [both.unet for both in (base(), *(expert(kind, domain) for domain in common.DOMAINS))]


def _flat(net: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in net.parameters()])
