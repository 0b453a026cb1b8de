"""A small program in place of eyespot's command, for the processes of a node; ``start`` of tests/cluster runs it."""

import time
from pathlib import Path

from eyespot.cluster.processes import Place

ALONE = Place(index=0, nodes=("here",), processes=2, job="7", requeues=0)

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

rank, what = os.environ["RANK"], sys.argv[2:]
Path(sys.argv[1], f"rank-{rank}").write_text(json.dumps(dict(os.environ)))
mine = what[int(rank) % len(what)]
if mine == "says":
    os.write(int(os.environ["EYESPOT_LAST_WORDS"]), b'{"kind": "crash", "text": "so it is", "ranks": [3]}\\nand more')
elif mine.startswith("ends"):
    sys.exit(int(mine[4:]))
elif mine == "saves":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(75))
    time.sleep(60)
elif mine == "deaf":
    time.sleep(60)
elif mine == "parent":  # as a data loader's worker: holds the pipe when its parent is gone
    if os.fork() == 0:
        time.sleep(60)
"""


def wait_for_start(folder: Path, *ranks: int) -> None:
    end = time.monotonic() + 30
    while not all((folder / f"rank-{rank}").exists() for rank in ranks):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.2)  # for the handlers
