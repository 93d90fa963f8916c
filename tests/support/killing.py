"""Trainings in processes of their own, which are killed."""

import subprocess
import sys
import time

from tests.support.comfy.bootstrap import REPOSITORY


def killed(command: list[str], lines: int, seconds: float) -> bool:
    """Kills `python *command` so long after it wrote so many lines, as kill -9 does; whether it was still training then."""
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        assert all(process.stdout.readline() for _ in range(lines)), "it has not trained"
        time.sleep(seconds)
        process.kill()
    return process.returncode != 0
