"""What a live server sends its clients while a prompt runs: the JSON messages of its websocket."""

import asyncio
import json
import queue
import threading
from collections.abc import Callable

import aiohttp


class Events:
    """`with Events(server) as events:` collects from then on; `events.wait("executing")` gives the next of a kind.

    Binary messages (preview pictures) appear with type "binary" and their bytes as data.
    """

    def __init__(self, server):
        self.url = f"{server.url}/ws?clientId={server.client_id}"
        self.seen = []
        self._inbox = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self):
        self._thread.start()
        if not self._connected.wait(30):
            raise TimeoutError("the server's websocket does not answer")
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)

    def wait(self, kind: str, timeout: float = 60) -> dict:
        """The data of the next message of this kind; raises queue.Empty when none comes in time."""
        while True:
            message = self._inbox.get(timeout=timeout)
            if message["type"] == kind:
                return message["data"]

    def per_step(self, node: str, steps: int, gauge: Callable[[], float]) -> float:
        """By how much the gauge rises a sampling step, from the first that `node` reports to the last.

        Newer hosts report the first step and the last, and of those between only one in a tenth of a second.
        """
        marks = []
        while not marks or marks[-1][0] < steps:
            progress = self.wait("progress", timeout=600)
            if progress["node"] == node:
                marks.append((progress["value"], gauge()))
        (first, before), (last, after) = marks[0], marks[-1]
        return (after - before) / (last - first)

    def _listen(self):
        self._task = self._loop.create_task(self._collect())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _collect(self):
        async with aiohttp.ClientSession() as session, session.ws_connect(self.url, max_msg_size=0) as socket:
            self._connected.set()
            async for frame in socket:
                if frame.type == aiohttp.WSMsgType.TEXT:
                    message = json.loads(frame.data)
                else:
                    message = {"type": "binary", "data": frame.data}
                self.seen.append(message)
                self._inbox.put(message)
