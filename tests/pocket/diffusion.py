"""Trains the base of single pictures, a U-Net with its text encoder, from which the base of scenes starts."""
import torch

from . import common, latents, stages, text, unet

BATCH = 64
PEAK, DECAY = 1.8e-3, 0.9985     # of the learning rate, and of the average of the weights
FORMS = (0.6, 0.1, 0.2, 0.1)     # shares of captions that are whole, without the hand, without the kind, empty
NO_WORD = 0.02                   # share of words made unknown
TEXT, UNET = common.WORK / "text.pt", common.WORK / "unet_base.pt"


class Both(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.text = text.TextEncoder()
        torch.manual_seed(common.SEED + 1)
        self.unet = unet.build()


class Captions:
    """Token ids of each picture's caption: whole, without the hand, without the kind, and empty."""

    def __init__(self, captions):
        handless, kindless = [c.split(", ", 1)[1] for c in captions], [c.rsplit(", ", 1)[0] for c in captions]
        self.forms = torch.stack([text.tokenize(form) for form in (captions, handless, kindless, [""] * len(captions))])

    def pick(self, index):
        return self.forms[torch.multinomial(torch.tensor(FORMS), len(index), replacement=True), index]


class Shuffled:
    """Indices 0..count - 1 in random order, every one once an epoch."""

    def __init__(self, count):
        self.count, self.left = count, torch.empty(0, dtype=torch.long)

    def next(self, batch):
        while len(self.left) < batch:
            self.left = torch.cat([self.left, torch.randperm(self.count)])
        out, self.left = self.left[:batch], self.left[batch:]
        return out


def train(minutes):
    z, captions = latents.training()
    ids, order, table = Captions(captions), Shuffled(len(z)), unet.alphas()
    both = Both().train()
    both.unet.requires_grad_(True)

    def loss(step):
        index = order.next(BATCH)
        x0 = z[index]
        t = unet.stratified(BATCH)
        x, v = unet.noised(x0, torch.randn_like(x0), t, table)
        context = both.text(ids.pick(index), NO_WORD)
        return (unet.predict(both.unet, x, t, context) - v).square().mean(), BATCH

    run = stages.fit("base", minutes, both, both, (PEAK, DECAY), loss)
    keep(both)
    run.say(f"done after {run.step} steps")


def keep(both):
    common.save_atomic(both.text.state_dict(), TEXT)
    common.save_atomic({k: v.contiguous() for k, v in both.unet.state_dict().items()}, UNET)


def trained():
    """-> (state of the text encoder, state of the U-Net), as they were kept."""
    if not UNET.exists():
        raise SystemExit(f"{UNET} is not there: train the base of single pictures first (python tests/pocket train).")
    return tuple(torch.load(path, weights_only=True) for path in (TEXT, UNET))
