"""docs/reference/file_formats.md names all that stands in the files, as the code writes them."""

import re
from pathlib import Path

from eyespot.data_pipeline.shards.frames import CLIP_DTYPE, CLIPS, FRAME_MASKS, FRAMES, MOTION
from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE, MASK_DTYPE
from eyespot.eval.release.layout import FILES, SUMS, TOWERS
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord
from eyespot.pretrain.tracking.tensorboard_mirror import FOLDER
from eyespot.pretrain.watchdog.gpu_health import METRICS
from eyespot.pretrain.watchdog.time_breakdown import PARTS, UNDIVIDED

PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "file_formats.md").read_text()


def part(heading: str) -> str:
    return re.split(r"^##+ ", PAGE.partition(f"# {heading}\n")[2], flags=re.M)[0]


def test_files_of_mirrors_are_named():
    assert {f"RUN/{MlflowRecord.path(Path()).name}", f"RUN/{FOLDER}/", "wandb/"} <= set(
        re.findall(r"[\w./]+", part("Run folder"))
    )


def test_the_index_has_these_columns_of_these_types():
    told = dict(re.findall(r"^\| `(\w+)` \| `(\S+)` \|", part("index.npy"), re.M))
    assert told == {name: INDEX_DTYPE[name].str for name in INDEX_DTYPE.names or ()}
    assert {*(MASK_DTYPE.names or ()), *(CLIP_DTYPE.names or ())} <= set(re.findall(r"`(\w+)`", part("index.npy")))


def test_tables_of_frames_and_files_of_a_release_are_named():
    assert {FRAMES, CLIPS, MOTION, FRAME_MASKS} <= set(re.findall(r"\w+\.npy", part("Shards")))
    of_towers = {name for kind in ("sound", "depth") for name in TOWERS[kind]}
    assert {*FILES, SUMS} - of_towers <= set(re.findall(r"[\w.-]+", part("Release")))


def test_shares_of_time_and_gpus_metrics_are_named():
    told = set(re.findall(r"`([\w/]+)`", part("metrics.jsonl")))
    assert {*PARTS[1:], f"time_share/{PARTS[0]}", UNDIVIDED, *METRICS} <= told
