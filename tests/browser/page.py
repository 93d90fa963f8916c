"""A real browser on a live server: Chromium, the front end of our choice, and what went wrong on the page."""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.support.chromium import browser
from tests.support.comfy.bootstrap import CACHE

OLDEST, NEWEST = "1.32.9", "1.58.1"
"""The front end that our oldest host comes with (on another host: the one that it comes with), and the newest on PyPI."""

either = pytest.mark.parametrize("canvas", [(OLDEST, "classic"), (NEWEST, "nodes 2.0")], ids="-".join, indirect=True)
"""For a test that takes long and hangs on neither: each front end, with one renderer each."""

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

# What a front end complains of by itself: files that a new user has not got, services that are out of reach, and, for
# the newest on our oldest host, questions that host cannot answer. Of a picture that a template names but nobody has.
# And of every request that a reload cuts short, and of itself while it starts.
HOSTS_OWN = re.compile(
    r"user\.css|favicon|userdata|api\.comfy\.org|huggingface\.co|/api/jobs|JobsApiError|fetch(ing)? (jobs|queue)|"
    r"ERR_ABORTED|/api/view\?type=input|reading 'id'\)\s+at onChange|"
    r"ComfyApp graph accessed before initialization"
)

QUIET = {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "9.9.9", "Comfy.Release.Status": "what's new seen"}
"""Settings without which a front end greets a new user with dialogs."""


def front_end_arguments(version: str) -> list[str]:
    """Command-line arguments that make the server serve this front end; fetched once where it is not the host's own."""
    if version == OLDEST:
        return []
    folder = CACHE / f"frontend-{version}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            package = f"comfyui-frontend-package=={version}"
            command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--dest", scratch, package]
            subprocess.run(command, check=True)
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(scratch)
            try:
                (Path(scratch) / "comfyui_frontend_package" / "static").rename(folder)
            except OSError:  # unless another worker of the same run has just put it there
                if not folder.is_dir():
                    raise
    return ["--front-end-root", str(folder)]


class Browser:
    """`with Browser() as browser: page = browser.open(server)`."""

    def __enter__(self):
        executable = browser()
        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(executable_path=executable, args=FLAGS)
        return self

    def __exit__(self, *_):
        self._chromium.close()
        self._playwright.stop()

    def open(self, server, **settings) -> "Canvas":
        """A fresh page, as of a new user with these settings, once the graph can be worked on."""
        page = self._chromium.new_context(viewport={"width": 1500, "height": 1000}).new_page()
        page.set_default_timeout(300_000)  # the machine may be busy
        canvas = Canvas(page, server, {**QUIET, **settings})
        canvas.load()
        return canvas


class Canvas:
    """A page with a workflow, and the complaints that it has made so far."""

    def __init__(self, page: Page, server, settings: dict):
        self.page = page
        self.server = server
        self.settings = settings
        self.nodes_2 = settings.get("Comfy.VueNodes.Enabled", False)
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self._complain(f"error: {error}"))
        page.on("console", self._console)
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)

    def load(self):
        """Opens the page, or opens it again. The settings lie on the server, which other pages share."""
        self.server.post("/settings", self.settings)
        self.page.goto(self.server.url)
        ready = (
            "() => Boolean(window.app?.extensionManager && window.LiteGraph?.registered_node_types.AFAEnsembleModel)"
        )
        self.page.wait_for_function(ready)
        self.page.wait_for_timeout(300)

    def clear(self):
        """An empty graph in plain sight, and no complaints."""
        self.run("app.graph.clear(); app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0];")
        self.settle()
        self.complaints.clear()

    def load_api(self, graph: dict):
        """Opens a graph in API format, with an id such as a workflow's own: not every front end gives it one."""
        self.run("await app.loadApiJson(argument, 'graph'); app.rootGraph.id = crypto.randomUUID();", graph)

    def settle(self, milliseconds: int = 60):
        """Lets the page do what it has put off."""
        self.page.wait_for_timeout(milliseconds)

    def until(self, script: str, argument=None, seconds: float = 60):
        """Waits until a JavaScript expression holds."""
        code = f"(argument) => {{ const app = window.app; return Boolean({script}); }}"
        self.page.wait_for_function(code, arg=argument, timeout=1000 * seconds)

    def run(self, script: str, argument=None):
        """The value of a JavaScript function body; `app` and `argument` are at hand."""
        return self.page.evaluate(f"async (argument) => {{ const app = window.app; {script} }}", argument)

    def texts(self, selector: str) -> list[str]:
        """Of all elements that a CSS selector finds."""
        return self.run("return [...document.querySelectorAll(argument)].map((e) => e.textContent);", selector)

    def shot(self, path: Path):
        self.page.screenshot(path=str(path))

    def close(self):
        self.page.context.close()

    def _console(self, message):
        if message.type == "error":
            self._complain(f"console: {message.text} ({message.location.get('url', '')})")

    def _failed(self, request):
        self._complain(f"failed: {request.url} ({request.failure})")

    def _answered(self, response):
        if response.status >= 400:
            self._complain(f"{response.status}: {response.url}")

    def _complain(self, text: str):
        if not HOSTS_OWN.search(text):
            self.complaints.append(text)
