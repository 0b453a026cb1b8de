"""Run folders as a run writes them line by line, to be watched."""

import json
from pathlib import Path

from eyespot.pretrain.run_record import RunRecord


def begin_run(folder: Path, lines: int = 12, steps: int = 100, **settings: object) -> Path:
    """A run that has logged some steps and goes on."""
    for name in ("logs", "pictures", "eval"):
        (folder / name).mkdir(parents=True)
    run = {"steps": steps, "data": {"shards": "/nowhere/digits"}, "optim": {"lr": 0.1}, **settings}
    RunRecord(recipe="mae_tiny", run=run, argv=["eyespot", "pretrain", "mae_tiny"], run_key="0" * 16).write(folder)
    add_lines(folder, range(lines))
    (folder / "logs" / "rank-0.log").write_text("2026-01-01 00:00:00,000 INFO step 1\n")
    return folder


def add_lines(folder: Path, steps: range, **values: object) -> None:
    """Lets it log some more."""
    with (folder / "metrics.jsonl").open("a") as file:
        for step in steps:
            line = {"step": step, "time": 1.7e9 + step, "loss": 5 / (1 + step), "samples_seen": 32 * (step + 1)}
            line |= {"images_per_second": 100.0, "data_wait_share": 0.25}
            line |= {"time_share/data": 0.25, "time_share/forward": 0.75, "online/knn": 0.5}
            file.write(json.dumps({**line, **values}) + "\n")
