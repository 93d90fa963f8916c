"""A live ComfyUI server on the CPU, and the few calls that the tests and the commands make to it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from .bootstrap import ensure_host, host_arguments

START_SECONDS = 600


@dataclass(eq=False)
class Failure(Exception):
    """Why a prompt gave no result: its nodes refused the inputs, or one threw while it ran."""

    message: str
    node_id: str | None = None
    node_type: str | None = None
    exception_type: str | None = None
    details: dict = field(default_factory=dict)

    def __str__(self):
        return f"{self.node_type or 'prompt'}: {self.message}"


class LiveServer:
    """`with LiveServer(base) as server: history = server.run(prompt)`.

    `base` is a directory from bootstrap.make_base; `arguments` are further command-line arguments of ComfyUI.
    """

    def __init__(self, base: Path, *arguments: str):
        self.base = base
        self.arguments = arguments
        self.log_path = base / "server.log"
        self.client_id = uuid.uuid4().hex
        self.process = None
        self.url = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Starts ComfyUI and returns when it answers."""
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        own = ["--port", str(port), "--disable-auto-launch", *host_arguments(self.base), *self.arguments]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "main.py", *own],
                cwd=ensure_host(),
                env={"OMP_NUM_THREADS": "1", **os.environ},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.get("/system_stats")
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"ComfyUI did not start; the end of its log:\n{self.log_tail()}") from None
                time.sleep(0.2)

    def stop(self):
        """Ends the server: with SIGTERM first, since it may be saving."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self):
        """Ends the server as a crash would."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def get(self, path: str):
        """The JSON that the server answers to GET."""
        return json.loads(self.read(path))

    def read(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def post(self, path: str, data=None):
        """The JSON that the server answers to POST; None where it answers nothing."""
        request = urllib.request.Request(
            self.url + path, json.dumps(data or {}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def queue(self, prompt: dict) -> str:
        """Queues a prompt in API format and returns its id; inputs that a node refuses raise Failure."""
        try:
            return self.post("/prompt", {"prompt": prompt, "client_id": self.client_id})["prompt_id"]
        except urllib.error.HTTPError as error:
            raise _refusal(json.loads(error.read())) from None

    def wait(self, prompt_id: str, timeout: float = 300) -> dict:
        """The history of a prompt once it has ended; one that ended in an error or was interrupted raises Failure."""
        deadline = time.monotonic() + timeout
        while not (entry := self.get(f"/history/{prompt_id}").get(prompt_id)):
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI died; the end of its log:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no result after {timeout} s; the end of the log:\n{self.log_tail()}")
            time.sleep(0.05)
        for event, data in entry["status"]["messages"]:
            if event == "execution_error":
                message = data["exception_message"].strip()
                raise Failure(message, data["node_id"], data["node_type"], data["exception_type"], data)
            if event == "execution_interrupted":
                raise Failure("interrupted", data["node_id"], data["node_type"], details=data)
        return entry

    def run(self, prompt: dict, timeout: float = 300) -> dict:
        return self.wait(self.queue(prompt), timeout)

    def interrupt(self):
        """Cancels the prompt that is running."""
        self.post("/interrupt")

    def free(self):
        """Lets the server unload its models and forget its cached results."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def images(self, history: dict, node_id: str | None = None) -> list[bytes]:
        """The files of the pictures that a prompt saved or previewed, of all nodes or of one."""
        outputs = history["outputs"]
        chosen = outputs.values() if node_id is None else [outputs[node_id]]
        pictures = [picture for output in chosen for picture in output.get("images", [])]
        return [self.read("/view?" + urllib.parse.urlencode(picture)) for picture in pictures]


def _refusal(answer: dict) -> Failure:
    """The first complaint in the server's answer to a prompt that it did not accept."""
    for node_id, node in answer.get("node_errors", {}).items():
        for error in node["errors"]:
            message = ": ".join(part for part in (error["message"], error["details"]) if part)
            return Failure(message, node_id, node["class_type"], error["type"], answer)
    return Failure(answer["error"]["message"], exception_type=answer["error"]["type"], details=answer)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
