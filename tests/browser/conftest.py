"""Pages of both front ends in both renderers, on live servers."""

import pytest

from tests.browser.page import NEWEST, OLDEST, Browser, front_end_arguments
from tests.host.bootstrap import make_base
from tests.host.checkpoints import ensure_checkpoints
from tests.host.server import LiveServer

RENDERERS = {"classic": False, "nodes 2.0": True}


@pytest.fixture(scope="session")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def newest_server(tmp_path_factory):
    """The live server with the newest front end in place of its own."""
    ensure_checkpoints()
    base = make_base(tmp_path_factory.mktemp("newest"))
    with LiveServer(base, *front_end_arguments(NEWEST)) as server:
        yield server


@pytest.fixture(scope="session", params=[OLDEST, NEWEST])
def server(request):
    return request.getfixturevalue("live_server" if request.param == OLDEST else "newest_server")


@pytest.fixture(scope="session", params=list(RENDERERS))
def page(request, browser, server):
    """A page that all tests of one front end and renderer share; each begins with an empty graph."""
    page = browser.open(server, **{"Comfy.VueNodes.Enabled": RENDERERS[request.param]})
    yield page
    page.close()


@pytest.fixture
def canvas(page):
    """The page with an empty graph, which must not have complained by the end of the test."""
    page.clear()
    yield page
    assert page.complaints == []
