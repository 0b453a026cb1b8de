"""MAE's step: eager, sharded and compiled; where the host waits for the GPU, how long it is busy; CUDA graphs."""

import warnings
from collections import Counter
from pathlib import Path

import torch
from gpu.instruments import (
    DEVICE,
    DRY,
    Note,
    changed_run,
    give_back,
    made_batch,
    made_engine,
    milliseconds,
    one_step,
    synchronize,
    timed_step,
)

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.engine import Engine, MicroBatch
from eyespot.pretrain.watchdog.stragglers import OwnWork

RECIPE, IMAGES = ("mae_tiny", 32) if DRY else ("mae_vitb16_in1k", 256)
WAYS = {"eager": {}, "FSDP": {"engine": "fsdp"}, "compiled": {"compile": True}}
SYNCS_OF = ("mae", "simclr", "byol", "swav", "dino", "moco_v3")
"""Methods whose tiny recipe is looked at for host synchronisations."""


def run(note: Note) -> None:
    for name, options in WAYS.items():
        if DRY and options.get("compile"):
            continue  # a minute of compiling, for nothing
        asked = changed_run(RECIPE, IMAGES, **options)
        engine = made_engine(asked)
        batch, watch = made_batch(engine.objective, IMAGES), OwnWork(DEVICE)
        watch.time_forward(engine.objective)  # as a run does: CUDA events, also beside compiled blocks
        taken = timed_step(note, name, engine, batch, before=watch.begin_compute)
        if name == "eager":
            busy_share(note, engine, batch, taken)
        watch.close()
        engine.close()
        del engine, batch
        give_back()
    for method in SYNCS_OF[: 1 if DRY else None]:
        engine = made_engine(changed_run(f"{method}_tiny", 32))
        batch = made_batch(engine.objective, 32)
        one_step(engine, batch)
        note(f"{method}: host synchronisations a step", host_syncs(engine, batch))
        engine.close()
    for method in SYNCS_OF[: 1 if DRY else None]:
        by_graph(note, method)


def by_graph(note: Note, method: str) -> None:
    """A small step without a CUDA graph and with one, and how far apart their losses are after the same steps."""
    took, losses = [], []
    for graphed in (False, not DRY):
        engine = made_engine(changed_run(f"{method}_tiny", 32, cuda_graph=graphed))
        batch = made_batch(engine.objective, 32)
        try:
            took.append(milliseconds(lambda e=engine, b=batch: one_step(e, b), warm=8, count=7))
            losses.append(engine.forward(MicroBatch(batch=batch))["loss"].item())
        except UserError as error:
            note(f"{method}: by a CUDA graph", str(error))
            return
        finally:
            engine.close()
            del engine
    told = f"{took[1]:.2f} ms, eager {took[0]:.2f}; loss {losses[1]:.5f}, eager {losses[0]:.5f} after the same steps"
    note(f"{method}: by a CUDA graph", "not measured" if DRY else told)


def host_syncs(engine: Engine, batch: Batch) -> str:
    """Where in a step the host waits for the device, by torch's own word."""
    if DRY:
        one_step(engine, batch)
        return "not measured"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            one_step(engine, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in said if "called a synchronizing" in str(w.message))
    listed = ", ".join(f"{place} x {count}" for place, count in sorted(places.items()))
    return f"{places.total()} {f'({listed})' if places else ''}".strip()


def busy_share(note: Note, engine: Engine, batch: Batch, taken: float) -> None:
    """How much of a step the GPU computes, and how many kernels that takes."""
    if DRY:
        return
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
        one_step(engine, batch)
        synchronize()
    rows = profile.key_averages()
    kernels = [row for row in rows if row.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(row.self_device_time_total for row in kernels) / 1000
    note("GPU busy", f"{100 * busy / taken:.1f} % of a step, {sum(row.count for row in kernels)} kernels and copies")
    print(rows.table(sort_by="self_device_time_total", row_limit=12, max_name_column_width=60))
