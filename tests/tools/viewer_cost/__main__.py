"""What the live routing viewer costs while it samples: python -m tests.tools.viewer_cost [ROUNDS]

Three experts of SD1.5's layout (thin ones, at 256 pixels: the maps are as many and, on the wire, as large as those of full
checkpoints, while a step is much cheaper, so that the cost weighs more here than there). Runs whose steps are sent to a browser
and runs that are sent nowhere take turns. What counts is the processor time of the server between the first step and the
last, over all its threads, since that does not hang on what else the machine does.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path

from tests.bench.measure import ratios, spread
from tests.browser.graphs import link, put_aggregator, routing_graph
from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.checkpoints import ensure_checkpoints
from tests.support.comfy.events import Events
from tests.support.comfy.server import LiveServer

EXPERTS = [f"tiny_sd15_{letter}.safetensors" for letter in "abc"]
STEPS = 5
SIZE = 256
LIMIT = 1.03


def graph(sent: bool, seed: int) -> dict:
    """Load, ensemble, sample; the sampled latent is saved, since something must be."""
    prompt = routing_graph("three.safetensors", EXPERTS, STEPS, seed, SIZE)
    for node in ("d", "r"):
        del prompt[node]
    prompt["s"] = {"class_type": "SaveLatent", "inputs": {"samples": link("k"), "filename_prefix": "cost"}}
    if not sent:
        prompt["quiet e"] = prompt.pop("e")
        routing = {"model": link("quiet e"), "routing": link("quiet e", 1)}
        prompt["q"] = {"class_type": "QuietRouting", "inputs": routing}
        prompt["k"]["inputs"]["model"] = link("q")
    return prompt


def processor_seconds(server: LiveServer) -> float:
    """Of all threads of the server so far."""
    tasks = Path("/proc", str(server.process.pid), "task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def sampled(server: LiveServer, prompt: dict) -> tuple[float, int]:
    """(processor seconds of a step, steps of the routing that the browser was sent) of one run."""
    with Events(server) as events:
        server.queue(prompt)
        seconds = events.per_step("k", STEPS, lambda: processor_seconds(server))
        events.wait("execution_success", timeout=60)  # the last message of a run
        return seconds, sum(event["type"] == "afa.routing" for event in events.seen)


def main(rounds: int = 9) -> None:
    ensure_checkpoints()
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder))
        (base / "custom_nodes" / "quiet").symlink_to(Path(__file__).parent / "quiet", target_is_directory=True)
        put_aggregator(base, "three.safetensors", EXPERTS)
        seconds = {True: [], False: []}
        with LiveServer(base) as server:
            for seed in range(rounds + 1):
                for sent in (True, False) if seed % 2 else (False, True):
                    step, messages = sampled(server, graph(sent, seed))
                    assert messages == sent * STEPS, f"{messages} steps were sent"
                    if seed:  # the first round loads
                        seconds[sent].append(step)
    ratio = ratios(seconds[True], seconds[False])
    cost = statistics.median(seconds[True]) - statistics.median(seconds[False])
    print(f"processor time of a step, with a viewer / without: {spread(ratio)}, {rounds} rounds")
    print(f"a step: {1000 * statistics.median(seconds[False]):.0f} ms without, {1000 * cost:+.1f} ms with")
    print(f"limit {LIMIT}: {'kept' if statistics.median(ratio) <= LIMIT else 'exceeded'}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*map(int, sys.argv[1:]))
