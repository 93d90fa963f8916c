"""A Chromium for the browser tests: `python -m tests.support.chromium` gets one where there is none.

The system's Chromium or Chrome, else Debian's package where it can be installed, else Playwright's own download.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MACOS = ("/Applications/Chromium.app/Contents/MacOS/Chromium", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")  # fmt: skip


def system_browser() -> str | None:
    """The path of the system's browser."""
    return next(filter(None, map(shutil.which, (*NAMES, *MACOS))), None)


def browser() -> str:
    """The path of a browser. Raises FileNotFoundError where `make setup` has not found or got one."""
    from playwright.sync_api import sync_playwright

    found = system_browser()
    if found is None:
        with sync_playwright() as playwright:
            found = playwright.chromium.executable_path
    if not Path(found).exists():
        raise FileNotFoundError("The browser tests need Chromium: install it or Google Chrome, and run make setup again.")
    return found


def get() -> None:
    if system_browser():
        return
    root = getattr(os, "geteuid", lambda: -1)() == 0
    if root and shutil.which("apt-get"):
        quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update", "-qq"], ["install", "-qq", "--yes", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", *arguments], env=quietly, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if system_browser():
        return
    install = [sys.executable, "-m", "playwright", "install", *(["--with-deps"] if root else []), "chromium"]
    if subprocess.run(install, stdout=subprocess.DEVNULL).returncode:
        print("No browser could be installed: all but the browser tests will run.", file=sys.stderr)


if __name__ == "__main__":
    get()
