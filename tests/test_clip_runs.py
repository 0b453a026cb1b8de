"""A run that learns from clips, through all that looks at a run: the loop, its monitors, plan, doctor, the report."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from films import pack_films
from PIL import Image
from safetensors.torch import load_file

from eyespot.cluster.doctor import probe
from eyespot.data_pipeline.augment.views import Clip, MaskView, RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.online_probe import OnlineProbe
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.config import Run
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.monitors.collapse import CollapseMonitor
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.planning import memory, trace
from eyespot.pretrain.trainer import fit

SIZE = 32
CLIP = RandomView(size=SIZE, scale=(0.5, 1.0), clip=Clip(4, 2), jitter=(0.4, 0.4, 0.4, 0.1))
VIEWS = ViewSpec(views=(CLIP, RandomView(size=SIZE, clip=Clip(4, 2), partner=True), MaskView(of=0)))


class SlowFeatures(Objective):
    """Frames of a film have close features, those of another film others."""

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        def build(self, encoder, image_size):
            return SlowFeatures(encoder, image_size)

    def __init__(self, encoder, image_size):
        super().__init__()
        self.encoder, self.image_size = encoder, image_size

    def views(self):
        return VIEWS

    def forward(self, batch):
        clip, other, masks = batch.views
        own, beside = (self.encode(view.flatten(0, 1)).unflatten(0, view.shape[:2]) for view in (clip, other))
        near = (own[:, 1:] - own[:, :-1]).square().mean()
        far = (own - beside).square().mean()
        assert masks.dtype == torch.uint8 and masks.shape == (len(batch), 4, 1, SIZE, SIZE)
        return {"loss": torch.relu(1 + near - far)}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return pack_films(tmp_path_factory.mktemp("films") / "shards")


def film_run(shards: Path, run_dir: Path, **changes) -> Run:
    run = Run(objective=SlowFeatures.Config(), encoder=EncoderConfig(name="test_vit", image_size=SIZE), seed=3)
    run.data.shards, run.data.batch_size, run.data.num_threads, run.run_dir = str(shards), 8, 1, run_dir
    run.steps, run.log_every, run.save_every, run.picture_every, run.monitor_every, run.track = 4, 1, 2, 2, 2, False
    run.optim.warmup_steps, run.device = 1, "cpu"
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def lines(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_of_clips_is_watched_pictured_and_resumed_exactly(shards, tmp_path):
    assert fit(film_run(shards, tmp_path / "whole"), "films", [CollapseMonitor, OnlineProbe]) == "done"
    whole = lines(tmp_path / "whole")
    assert all(line["frames_per_second"] == pytest.approx(4 * line["images_per_second"], abs=0.1) for line in whole)
    assert {"health/effective_rank", "health/alignment", "online/knn"} <= whole[-1].keys()
    (picture, *_) = sorted((tmp_path / "whole").rglob("*.png"))
    width, height = Image.open(picture).size
    assert height == 8 * (3 * SIZE + 4) - 4 and width == 8 * (3 * SIZE + 4) - 4, "eight frames below each other"

    fit(film_run(shards, tmp_path / "parts", stop_after=2), "films")
    assert len(lines(tmp_path / "parts")) == 2
    assert fit(film_run(shards, tmp_path / "parts", resume="auto"), "films") == "done"
    assert [line["sample_digest"] for line in lines(tmp_path / "parts")] == [line["sample_digest"] for line in whole]
    one, two = (
        {path.name: load_file(path) for path in checkpoint.newest(tmp_path / name).glob("*.safetensors")}
        for name in ("whole", "parts")
    )
    assert one and all(torch.equal(value, two[file][name]) for file in one for name, value in one[file].items())


def test_plan_counts_all_frames(shards, tmp_path):
    run = film_run(shards, tmp_path)
    found = trace.trace(run, 1, "cpu")
    assert found.image_bytes == SIZE**2 * (2 * 4 * 3 * 4 + 4) and found.measured_because is None
    assert found.files == 2 * 4, "four frames of the sample, and four of another"
    on_gpu = replace(found, device="cuda", bf16_views=False)
    whole = 2 * 10 * 8 * 3 * 32**2  # two batches of ten samples' images, which are small
    held = 10 * 5 * found.image_bytes / 4 + 1.5 * whole  # 8-bit views, whole images, and the JPEG engines' reserve
    assert memory.image_bytes(run, on_gpu, 10, 1)["images in the decoder (DALI)"] == held


def test_doctor_makes_the_clips(shards, tmp_path):
    run = film_run(shards, tmp_path)
    said = probe._decode(run, fresh_objective(run), 7, torch.device("cpu"))
    assert said == "one clip of 4 frames decoded on cpu, 3 views of it made"


def test_clips_of_images_are_one_line(digits, tmp_path):
    with pytest.raises(UserError, match="have no frames"):
        fit(film_run(digits, tmp_path / "run"), "films")
    assert not (tmp_path / "run").exists(), "refused before anything is on disk"
