"""How long a checkpoint holds the training up: ViT-L's whole state into pinned memory."""

import time

from gpu.instruments import DRY, Note, changed_run, made_engine, synchronize

from eyespot.pretrain.checkpoints.shard_file import RankShard


def run(note: Note) -> None:
    engine = made_engine(changed_run("mae_tiny" if DRY else "mae_vitl16_in1k", 8))
    tensors = engine.save_tensors()
    begun = time.perf_counter()
    shard = RankShard(tensors)
    note("state", f"{sum(tensor.nbytes for tensor in tensors.values()) / 1e9:.2f} GB")
    note("pinned memory for it, once", f"{time.perf_counter() - begun:.2f} s")
    for turn in ("first", "second"):
        synchronize()
        begun = time.perf_counter()
        shard.copy(tensors)
        queued = time.perf_counter() - begun
        synchronize()
        note(
            f"{turn} copy", f"{1000 * queued:.1f} ms until the step goes on, {time.perf_counter() - begun:.3f} s in all"
        )
    engine.close()
