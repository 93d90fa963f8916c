"""Pages of both front ends in both renderers, on live servers."""

import pytest

from tests.browser.page import NEWEST, OLDEST, Browser, front_end_arguments
from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.checkpoints import ensure_checkpoints
from tests.support.comfy.server import LiveServer

SERVERS = {OLDEST: "live_server", NEWEST: "newest_server"}
RENDERERS = {"classic": False, "nodes 2.0": True}
ALL = [(version, renderer) for version in SERVERS for renderer in RENDERERS]


@pytest.fixture(scope="session")
def newest_server(tmp_path_factory):
    """The live server with the newest front end in place of its own."""
    ensure_checkpoints()
    base = make_base(tmp_path_factory.mktemp("newest"))
    with LiveServer(base, *front_end_arguments(NEWEST)) as server:
        yield server


@pytest.fixture(scope="session", params=list(SERVERS))
def server(request):
    return request.getfixturevalue(SERVERS[request.param])


@pytest.fixture(scope="session")
def pages(request):
    """(version, renderer) -> a page that all its tests share, opened when it is first asked for."""
    opened = {}
    with Browser() as browser:

        def page(version, renderer):
            if (version, renderer) not in opened:
                server = request.getfixturevalue(SERVERS[version])
                settings = {"Comfy.VueNodes.Enabled": RENDERERS[renderer]}
                opened[version, renderer] = browser.open(server, **settings)
            return opened[version, renderer]

        yield page


@pytest.fixture(params=ALL, ids="-".join)
def canvas(request, pages):
    """An empty graph in each front end and renderer; the page must not have complained by the end of the test."""
    page = pages(*request.param)
    page.clear()
    yield page
    assert page.complaints == []
