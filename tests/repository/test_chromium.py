"""Where `make setup` takes a browser from."""

import shutil
import subprocess

import pytest

from tests.support import chromium


@pytest.fixture
def machine(monkeypatch):
    """machine(programs, root, packages) -> the commands that get() runs on a machine with these programs; apt-get
    installs what is in its packages."""

    def run(programs, root=True, packages=()):
        there, commands = set(programs), []

        def execute(command, **kwargs):
            commands.append(" ".join(command[2 if command[1] == "-m" else 0 :]))
            if command[:2] == ["apt-get", "install"]:
                there.update(set(command) & set(packages))
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in there else None)
        monkeypatch.setattr(subprocess, "run", execute)
        monkeypatch.setattr(chromium.os, "geteuid", lambda: 0 if root else 1000)
        chromium.get()
        return commands

    return run


@pytest.mark.parametrize("name", chromium.NAMES)
def test_the_systems_own_is_taken(machine, name):
    assert machine([name, "apt-get"]) == []
    assert chromium.system_browser() == f"/usr/bin/{name}"


def test_debian_installs_its_package(machine):
    update, install = machine(["apt-get"], packages=["chromium"])
    assert update.startswith("apt-get update") and install.startswith("apt-get install") and "chromium" in install


def test_elsewhere_playwright_downloads_its_own(machine):
    assert machine(["apt-get"])[-1] == "playwright install --with-deps chromium"  # as Ubuntu, which has no such package
    assert machine([]) == ["playwright install --with-deps chromium"]
    assert machine(["apt-get"], root=False) == ["playwright install chromium"]
