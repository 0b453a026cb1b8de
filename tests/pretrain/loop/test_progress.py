"""What a person sees of a training: a bar at a terminal, elsewhere a line now and then, of rank 0 alone."""

import io
import logging
from pathlib import Path

import numpy as np
import torch
from moving_squares import pack_squares

from eyespot.data_pipeline.console import Console
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop import progress
from eyespot.pretrain.loop.progress import TrainingProgress, announce
from eyespot.pretrain.loop.run_data import RunData
from eyespot.pretrain.recipe_lookup import make_run


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=120)


def test_without_a_terminal_a_line_now_and_then(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "eyespot")
    console = plain()
    with TrainingProgress(console, 0, 100, shown=True) as bar:
        for step in (1, 2, 3):
            bar.show(step, 0.5, 12.0)
        assert len(caplog.messages) <= 1  # the first one, on a machine that has been up for a while
        caplog.clear()
        monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
        bar.show(50, 1.23456, 1234.5)
    (line,) = caplog.messages
    assert line.startswith("step 50/100  loss 1.2346  1234 images/s  ") and line.endswith(" min left")
    assert console.file.getvalue().strip() == ""


def data_of(run, shards: ShardFolder, *, ranks: int = 1, ids=None) -> RunData:
    world = World(rank=0, size=ranks, device=torch.device("cpu"))
    return RunData(run=run, world=world, shards=shards, ids=ids, labeled_ids=None, lane_frame=1)


def test_the_last_step_is_always_said(caplog):
    caplog.set_level(logging.INFO, "eyespot")
    with TrainingProgress(plain(), 0, 4, shown=True) as bar:
        bar.show(1, 0.5, 12.0)
        caplog.clear()
        bar.show(4, 0.25, 12.0)
    assert caplog.messages == ["step 4/4  loss 0.2500  12 images/s  0 min left"]


def test_clips_are_not_called_images(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO, "eyespot")
    with TrainingProgress(plain(), 0, 4, shown=True, counted_as="clips") as bar:
        bar.show(4, 0.25, 12.0)
    squares = pack_squares(tmp_path / "squares", 1, masks=False)
    manifest = squares.manifest
    announce(data_of(make_run("arrow_of_time_tiny"), squares), "arrow_of_time_tiny", 1_250_000, counted_as="clips")
    said = " ".join(caplog.messages)
    assert "12 clips/s" in said and f" {plural(manifest.num_samples, 'sample')}, " in said and "per 256 clips" in said
    assert "images" not in said


def test_other_ranks_are_silent(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "eyespot")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with TrainingProgress(console, 0, 4, shown=False) as bar:
        bar.show(4, 0.25, 12.0)
    assert not caplog.messages and console.file.getvalue() == ""


def test_at_a_terminal_a_bar_and_no_lines(caplog):
    caplog.set_level(logging.INFO, "eyespot")
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with TrainingProgress(console, 2, 10, shown=True) as bar:
        bar.show(3, 0.125, 1234.5)
        with bar.aside("features of all samples", 8) as advance:
            advance(8)
    said = console.file.getvalue()
    assert "loss 0.1250" in said and "1,234 images/s" in said and "3/10" in said
    assert not caplog.messages


def test_the_start_says_sizes_and_the_rate_that_applies(digits: Path, caplog):
    caplog.set_level(logging.INFO, "eyespot")
    run = make_run("mae_tiny")
    run.run_dir, run.steps, run.optim.lr = Path("runs/first"), 100, 0.002
    run.data.batch_size, run.data.accumulate = 64, 2
    shards = ShardFolder(digits / "train")
    announce(data_of(run, shards, ranks=4), "mae_tiny", 1_250_000)
    first, second, third = caplog.messages
    assert first == f"mae_tiny: {run.encoder.name}, 1.2 M parameters, in runs/first"
    assert (
        f" {shards.manifest.num_samples:,} images, {100 * 64 / shards.manifest.num_samples:.1f} epochs in 100 steps"
        in second
    )
    assert "batch 64 = 4 ranks x 2 micro-batches x 8 images;" in third
    assert "learning rate 0.0005 = 0.002 per 256 images" in third
    announce(data_of(run, shards, ids=np.arange(64)), "mae_tiny", 1_250_000)
    assert f" 64 of {shards.manifest.num_samples:,} images, 100.0 epochs in 100 steps" in caplog.messages[4]
