"""make gpu: does the pack do on this machine's device what it does on a CPU, and what does a step cost there?

One line a check, PASS or FAIL with what was found; exits with 1 where one failed. Runs on a CPU, too. Networks compute in
float32, but for the step, which is timed in bf16 where the device computes in it.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.checkpoints import ensure_checkpoints
from tests.support.comfy.inprocess import Host

GPU = torch.accelerator.is_available()


def main() -> int:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    ensure_checkpoints()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        host = Host(make_base(Path(folder)), ("--fp32-unet",) if GPU else ("--cpu",))
        host.load_pack()
        from .checks import CHECKS, device_name

        print(f"device: {device_name()}, torch {torch.__version__}", flush=True)
        for check in CHECKS:
            started = time.perf_counter()
            try:
                passed, figures = check(host)
            except Exception as error:
                traceback.print_exc()
                passed, figures = False, repr(error)
            failed += not passed
            took = time.perf_counter() - started
            print(f"{'PASS' if passed else 'FAIL'} {check.__name__}: {figures} ({took:.0f} s)", flush=True)
            host.release()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
