"""Whose view shows a training, and whose button stops it."""

import threading
from importlib import import_module

import pytest


@pytest.fixture
def live(pack, monkeypatch):
    """The module, with two pages connected to the server."""
    import server

    monkeypatch.setattr(server.PromptServer.instance, "sockets", {"first tab": None, "second tab": None})
    monkeypatch.setattr(server.PromptServer.instance, "client_id", "first tab")
    return import_module(pack.__name__ + ".nodes.live")


def feed_of(live, workflow="a workflow"):
    return live.TrainingFeed("3", ["model_1", "model_2"], 100, workflow)


def test_a_second_tab_with_the_same_workflow_shows_and_stops_nothing(live):
    feed = feed_of(live)
    assert live.last_training("a workflow", "3", "first tab")["run"] == feed.header["run"]
    assert live.last_training("a workflow", "3", "second tab") is None
    assert live.last_training("another workflow", "3", "first tab") is None
    assert not live.stop_training("another run") and feed.state == "training"
    assert live.stop_training(feed.header["run"]) and feed.stop_requested


def test_a_training_whose_page_is_gone_can_be_seen_and_stopped_from_another(live):
    import server

    feed = feed_of(live)
    del server.PromptServer.instance.sockets["first tab"]
    shown = live.last_training("a workflow", "3", "second tab")
    assert shown["state"] == "training" and live.stop_training(shown["run"]) and feed.stop_requested


def test_stop_interrupts_what_comes_before_the_first_step(live, pack):
    """Nothing is learnt yet that the graph could go on with."""
    from types import SimpleNamespace

    import comfy.model_management

    training = import_module(pack.__name__ + ".nodes.training")
    feed, state = feed_of(live), SimpleNamespace(step=0, losses=[])
    progress = training.preparation(feed)
    listen = training.listener(feed, None, {"steps": 100, "save_as": "x"})
    progress(1, 2, "encoding")
    feed.stop()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        progress(2, 2, "encoding")
    report = SimpleNamespace(state=state, seconds_per_step=0, evaluation=None)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        listen(report)
    assert not training.stops["x"]
    state.step = 1
    with pytest.raises(training.Stop):
        listen(report)
    assert training.stops["x"] == training.times_stopped("x") == 1
    assert training.times_stopped("y") == 0 and training.times_stopped(None) == training.stops.total()  # None: linked


def test_what_has_ended_is_shown_to_all(live):
    feed_of(live).finish("all steps are done")
    assert live.last_training("a workflow", "3", "second tab")["message"] == "all steps are done"


def test_the_next_training_of_another_node_is_the_one_that_stops(live):
    first = feed_of(live)
    first.finish()
    second = feed_of(live, "another workflow")
    assert not live.stop_training(first.header["run"])
    assert live.stop_training(second.header["run"])


def test_a_late_press_of_the_button_does_not_undo_the_end(live):
    """The training ends in its own thread, at the very moment at which the button is pressed in the server's."""

    class Racing(live.TrainingFeed):
        ending = None

        def __setattr__(self, name, value):
            if (name, value) == ("state", "stopping"):
                self.ending = threading.Thread(target=self.finish, args=["all steps are done"])
                self.ending.start()
                self.ending.join(0.3)
            super().__setattr__(name, value)

    feed = Racing("3", ["model_1", "model_2"], 100, "a workflow")
    feed.stop()
    feed.ending.join()
    assert feed.state == "done" and feed.latest["message"] == "all steps are done"
    assert not feed.stop()
