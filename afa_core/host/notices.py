"""What users should know of a graph and what stops nothing: lines in the log, and a text on the node that runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from comfy_execution.utils import get_executing_context
from server import PromptServer


def notify(lines: Sequence[str]) -> None:
    """The node's text is removed when the next graph runs."""
    for line in lines:
        logging.warning("AFA: %s", line)
    server, running = getattr(PromptServer, "instance", None), get_executing_context()
    if lines and server is not None and running is not None:
        server.send_progress_text("\n\n".join(lines), running.node_id, server.client_id)
