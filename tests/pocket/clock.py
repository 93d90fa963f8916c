"""A training loop's bookkeeping: a budget in minutes, resumable state saved every minute, a log line now and then."""
import time

import torch

from . import common, threads


class Run:
    """Owns what must survive an interruption. `parts` maps names to objects with state_dict/load_state_dict."""

    def __init__(self, stage, minutes, **parts):
        self.path = common.WORK / f"state_{stage}.pt"
        self.stage, self.budget, self.parts = stage, minutes * 60, parts
        self.step, self.spent = 0, 0.0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.step, self.spent = state["step"], state["spent"]
            torch.set_rng_state(state["rng"])
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])
            self.say(f"resumed at step {self.step}, {self.spent / 60:.1f} of {minutes:g} minutes spent")
        else:
            torch.manual_seed(common.SEED)
        self.threads = threads.Threads()
        self.mark = self.saved = time.monotonic()
        self.sums, self.count, self.said = {}, 0, self.spent

    @property
    def share(self):
        """Share of the budget that is spent, 0..1: what schedules depend on."""
        return min(1.0, self.spent / max(self.budget, 1e-9))

    def say(self, text):
        print(f"[{self.stage}] {text}", flush=True)

    def tick(self, batch, **losses):
        """After every step; -> False when the budget is spent."""
        self.threads.step()
        now = time.monotonic()
        self.spent += now - self.mark
        self.mark, self.step, self.count = now, self.step + 1, self.count + batch
        for k, v in losses.items():
            self.sums[k] = self.sums.get(k, 0.0) + float(v) * batch
        if self.spent - self.said > 20:
            means = ", ".join(f"{k} {v / self.count:.4f}" for k, v in self.sums.items())
            rate = self.count / (self.spent - self.said)
            self.say(f"step {self.step}, {self.spent / 60:.1f} min, {rate:.0f}/s on {self.threads.now}, {means}")
            self.sums, self.count, self.said = {}, 0, self.spent
        if now - self.saved > 45:
            self.save()
            self.mark = self.saved = time.monotonic()
        return self.spent < self.budget

    def save(self):
        common.save_atomic({"step": self.step, "spent": self.spent, "rng": torch.get_rng_state(),
                            "parts": {k: p.state_dict() for k, p in self.parts.items()}}, self.path)


class Ema:
    """Exponential moving average of a module's parameters, with a warm-up so that the start is forgotten."""

    def __init__(self, module, decay):
        self.decay, self.n = decay, 0
        self.average = {k: v.detach().clone() for k, v in module.named_parameters()}

    @torch.no_grad()
    def update(self, module):
        self.n += 1
        d = min(self.decay, (1 + self.n) / (10 + self.n))
        old, new = list(self.average.values()), [p.detach() for _, p in module.named_parameters()]
        torch._foreach_lerp_(old, new, 1 - d)

    def state_dict(self):
        return {"n": self.n, "average": self.average}

    def load_state_dict(self, state):
        self.n = state["n"]
        for k, v in state["average"].items():
            self.average[k].copy_(v)

    @torch.no_grad()
    def write_to(self, module):
        for k, p in module.named_parameters():
            p.copy_(self.average[k])


def rate(share, peak, warm=0.02, floor=0.05):
    """Learning rate: linear warm-up over `warm` of the budget, then a cosine down to floor * peak."""
    import math
    if share < warm:
        return peak * max(share / warm, 0.02)
    x = (share - warm) / (1 - warm)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * x)))
