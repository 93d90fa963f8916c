"""Trains the base U-Net with the text encoder, then one expert a domain from it with the text encoder frozen."""
import time

import torch

from . import clock, common, latents, text, unet

BATCH = 64
WIDE = 48                        # of an expert's batch: pictures of its domain's wide set
PEAK = {"base": 1.8e-3}          # experts: EXPERT_PEAK
EXPERT_PEAK = 8e-4
DECAY = {"base": 0.9985}         # of the average of the weights; experts: EXPERT_DECAY
EXPERT_DECAY = 0.998
EXPERT_DROPOUT = 0.1             # of a residual block's features, or an expert only memorises
FORMS = (0.6, 0.1, 0.2, 0.1)     # shares of captions that are whole, without the hand, without the kind, empty
NO_WORD = {"base": 0.02}         # share of words made unknown; experts: EXPERT_NO_WORD
EXPERT_NO_WORD = 0.3             # or an expert asks for the name alone, and is lost where it is new


class Both(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.text = text.TextEncoder()
        torch.manual_seed(common.SEED + 1)
        self.unet = unet.build()


def weights_path(stage):
    return common.WORK / f"unet_{stage}.pt"


def load(stage):
    """-> Both, averaged weights, in eval mode, without gradients; the text encoder is always the base's."""
    both = Both()
    both.text.load_state_dict(torch.load(common.WORK / "text.pt", weights_only=True))
    both.unet.load_state_dict(torch.load(weights_path(stage), weights_only=True))
    return both.eval().requires_grad_(False)


class Captions:
    """Token ids of each picture's caption: whole, without the hand, without the kind, and empty."""

    def __init__(self, captions):
        handless, kindless = [c.split(", ", 1)[1] for c in captions], [c.rsplit(", ", 1)[0] for c in captions]
        self.forms = torch.stack([text.tokenize(form) for form in (captions, handless, kindless, [""] * len(captions))])

    def pick(self, index):
        return self.forms[torch.multinomial(torch.tensor(FORMS), len(index), replacement=True), index]


class Shuffled:
    """Indices first..first + count - 1 in random order, every one once an epoch."""

    def __init__(self, count, first=0):
        self.count, self.first, self.left = count, first, torch.empty(0, dtype=torch.long)

    def next(self, batch):
        while len(self.left) < batch:
            self.left = torch.cat([self.left, torch.randperm(self.count) + self.first])
        out, self.left = self.left[:batch], self.left[batch:]
        return out


def train(stage, minutes):
    z, captions, subjects = latents.training()
    base = stage == "base"
    if not base:                # own domain only; a share of every batch from its wide set, or the expert only memorises
        keep = torch.tensor([s.domain == stage for s in subjects])
        z, captions = z[keep], [c for c, k in zip(captions, keep.tolist(), strict=True) if k]
    ids = Captions(captions)
    both = Both() if base else load("base")
    both.train()
    both.unet.requires_grad_(True)
    if not base:
        for module in both.unet.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = EXPERT_DROPOUT
    trained = both if base else both.unet
    params = [p for p in trained.parameters() if p.requires_grad]
    peak = PEAK.get(stage, EXPERT_PEAK)
    opt = torch.optim.AdamW(params, lr=peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = clock.Ema(trained, DECAY.get(stage, EXPERT_DECAY))
    run = clock.Run(stage, minutes, net=both, opt=opt, ema=ema)
    pools = [(Shuffled(len(z)), BATCH)]
    if not base:
        more, more_captions = latents.wide(stage)
        pools = [(Shuffled(len(z)), BATCH - WIDE), (Shuffled(len(more), len(z)), WIDE)]
        z, ids = torch.cat([z, more]), Captions(captions + more_captions)
        run.mark = time.monotonic()     # the encoding is not on the clock
    table = unet.alphas()
    going, exported = run.share < 1, run.spent
    while going:
        for group in opt.param_groups:
            group["lr"] = clock.rate(run.share, peak, floor=0.02)
        index = torch.cat([pool.next(size) for pool, size in pools])
        x0 = z[index]
        t = unet.stratified(BATCH)
        x, v = unet.noised(x0, torch.randn_like(x0), t, table)
        with torch.set_grad_enabled(base):
            context = both.text(ids.pick(index), NO_WORD.get(stage, EXPERT_NO_WORD))
        loss = (unet.predict(both.unet, x, t, context) - v).square().mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        ema.update(trained)
        going = run.tick(BATCH, loss=loss.detach())
        if run.spent - exported > 120 or not going:
            write(both, trained, ema, stage)
            exported = run.spent
    run.save()
    run.say(f"done after {run.step} steps")


def write(both, trained, ema, stage):
    """The averaged weights, for evaluation and export, while the run goes on with its own."""
    own = {k: v.detach().clone() for k, v in trained.named_parameters()}
    ema.write_to(trained)
    if stage == "base":
        common.save_atomic(both.text.state_dict(), common.WORK / "text.pt")
    common.save_atomic({k: v.contiguous() for k, v in both.unet.state_dict().items()}, weights_path(stage))
    with torch.no_grad():
        for k, p in trained.named_parameters():
            p.copy_(own[k])
