"""The digests by which aggregators know checkpoints, from a host of its own: python -m tests.support.identities BASE FILE ..."""

import json
import subprocess
import sys
from pathlib import Path


def digests(base: Path, files: list[str]) -> list[str]:
    """Of checkpoints in a base directory, by a process of its own: not every test has a host in its process."""
    command = [sys.executable, "-m", "tests.support.identities", str(base), *files]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main(base: Path, *files: str) -> None:
    from tests.support.comfy.inprocess import Host

    host = Host(base)

    from afa_core.host.experts.checkpoints import model_identity

    models = (host.call("CheckpointLoaderSimple", ckpt_name=name)[0] for name in files)
    print(json.dumps([model_identity(model).digests[0] for model in models]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
