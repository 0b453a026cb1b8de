"""Probes are real processes, of which one is made to crash and one to hang, by a torch that is broken."""

import signal
import time
from pathlib import Path

from eyespot.cluster.doctor.findings import Answer, Finding
from eyespot.cluster.doctor.rank_probes import Probes
from eyespot.cluster.processes import free_port

TORCH = """
import os, signal, time
if os.environ["RANK"] == "0":
    print("something went wrong in C", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
time.sleep(600)
"""


def test_a_rank_that_crashes_and_one_that_hangs_are_findings(make_context, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text(TORCH)
    (tmp_path / "run.json").write_text("{}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    context = make_context(processes=2, seconds=60, run_file=tmp_path / "run.json", run_dir=tmp_path)
    probes = Probes(context, free_port())
    folder = Path(probes._folder.name)
    while probes._ranks.poll()[0] is None:
        assert context.seconds_left() > 0
        time.sleep(0.1)
    # What the hanging one had told by then: it got as far as the all-reduce.
    good = Finding(check="data pipeline", node="rank 1", level="ok", found="fine", seconds=0.3)
    facts = {"stage": "all-reduce", "clocks": [0.0], "gpu": "0000:18:00.0 n1 GPU-a"}
    Answer(node="rank 1", findings=[good], facts=facts).write(folder / "rank-1.json")
    context.until -= context.seconds_left() - 0.5
    crashed, told, hung, taken = probes.judge(context)
    pids = [process.pid for process in probes._ranks._processes]
    probes.close()
    assert (crashed.check, crashed.level) == ("imports", "fail")
    assert crashed.found == f"rank 0 was killed by {signal.SIGSEGV.name}: something went wrong in C"
    assert (told.check, told.node, told.found, told.seconds) == ("data pipeline", "n1", "fine", 0.3)
    assert (hung.check, hung.level) == ("all-reduce", "fail")
    assert hung.found.startswith("rank 1 hung for ")
    assert (taken.check, taken.level, taken.found) == ("device", "ok", "1 rank on 1 GPU, as the ranks report")
    assert context.facts == {"clocks": [0.0]}
    assert not folder.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
