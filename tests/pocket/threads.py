"""Picks one or two threads while training, whichever is faster now.

Two threads that wait for each other lose against one as soon as another program takes a core for a while, and win by
nearly half when none does; so both are timed again and again.
"""
import os
import time

import torch


class Threads:
    PROBE = 60.0     # seconds between two tries of the other count
    TRY = 5          # steps that a try lasts

    def __init__(self):
        self.counts = (1, min(2, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)))
        self.now, self.took, self.left = self.counts[1], {}, 0
        self.times, self.mark, self.next = [], time.monotonic(), 0.0
        torch.set_num_threads(self.now)

    def step(self):
        """Call after every training step."""
        now = time.monotonic()
        self.times.append(now - self.mark)
        self.mark = now
        if self.left:
            self.left -= 1
            if self.left == 0:
                self._judge(now)
        elif now > self.next and len(self.times) >= self.TRY and self.counts[0] != self.counts[1]:
            self.took[self.now] = sum(self.times[-self.TRY:]) / self.TRY
            self._use(self.counts[0] if self.now == self.counts[1] else self.counts[1])
            self.left = self.TRY

    def _judge(self, now):
        self.took[self.now] = sum(self.times[1:]) / max(1, len(self.times) - 1)   # the first one still warms up
        self._use(min(self.took, key=self.took.get))
        self.next = now + self.PROBE

    def _use(self, count):
        if count != self.now:
            torch.set_num_threads(count)
        self.now, self.times = count, []
