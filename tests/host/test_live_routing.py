"""Attention maps are made into messages only where a browser is connected to get them."""

from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("client", "tabs", "heard"),
    [(None, [], False), (None, ["a tab"], True), ("a tab", ["a tab"], True), ("closed", ["a tab"], False)],
)
def test_a_step_is_sent_where_somebody_listens(pack, monkeypatch, client, tabs, heard):
    import server

    live, sent = import_module(pack.__name__ + ".nodes.live"), []
    monkeypatch.setattr(server.PromptServer.instance, "client_id", client)
    monkeypatch.setattr(server.PromptServer.instance, "sockets", dict.fromkeys(tabs))
    monkeypatch.setattr(server.PromptServer.instance, "send_sync", lambda *message: sent.append(message))
    monkeypatch.setattr(live, "wire_header", lambda run: {})
    monkeypatch.setattr(live, "wire_step", lambda run, evaluations: {"shares": evaluations})
    queue = server.PromptServer.instance.prompt_queue
    graph = (0, "its id", {}, {"extra_pnginfo": {"workflow": {"id": "a workflow"}}}, [])
    monkeypatch.setattr(queue, "currently_running", {0: graph})
    live.routing_listener("7")(None, 2, [0.5])
    message = live.ROUTING, {"workflow": "a workflow", "source": "7", "step": 2, "shares": [0.5]}, client
    assert sent == ([message] if heard else [])
