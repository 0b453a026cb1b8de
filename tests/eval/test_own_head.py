"""A run's own head is asked once about each video that it has not seen, on any number of ranks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from captioned import pack_named_digits
from films import pack_films
from left_runs import leave_run, small_run

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.own_head import asked_of, has_question, judge_own_head, score_of
from eyespot.eval.results.compare import paired_differences
from eyespot.eval.results.result import Result
from eyespot.eval.results.significance import wilson
from eyespot.pretrain.distributed.process_group import World

ONE = World(rank=0, size=1, device=torch.device("cpu"))
VIEWS = {
    "frame_order_tiny": Clip(5, pick="ordered"),
    "odd_one_out_tiny": Clip(8),
    "arrow_of_time_tiny": Clip(4),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    return pack_films(tmp_path_factory.mktemp("films") / "shards")


def run_of_method(recipe: str, shards: Path, folder: Path) -> Path:
    """A run as training leaves it after its first steps."""
    run = small_run(recipe)
    run.data.shards, run.objective.view = str(shards), RandomView(clip=VIEWS[recipe])
    return leave_run(run, recipe, folder, shards)


def judged(target: Path, films: Path, world: World = ONE, **changes) -> list[Result]:
    return judge_own_head(str(target), films, **({"out": None, "seed": 0, "world": world} | changes))


@pytest.mark.parametrize("recipe", VIEWS)
def test_the_share_is_that_of_videos_asked_one_by_one(recipe, films, tmp_path):
    run_dir = run_of_method(recipe, films, tmp_path / "run")
    results = judged(run_dir, films, seed=5)
    assert [result.role for result in results] == ["encoder", "random"]
    for result, asked in zip(results, asked_of(str(run_dir), 5, has_question), strict=True):
        spec = LoaderSpec(shards=ShardFolder(films), views=asked.views, batch_size=1, seed=5)
        asked.objective.eval()
        each = [asked.objective.told(batch).item() for batch in make_pass(spec)]
        assert result.accuracy == pytest.approx(np.mean(each)) and result.tested == "24 test videos"
        low, high = result.interval
        assert low <= result.accuracy <= high and result.settings["chance"] == round(asked.objective.chance, 4)
        assert result.protocol == "own-head" and result.origin.get("step") == (12 if result.role == "encoder" else None)
    assert len(paired_differences(results[0], results[1:])) == 1
    assert [result.created for result in judged(run_dir, films, seed=5)] == [result.created for result in results]


@pytest.mark.thorough
def test_any_number_of_ranks_gives_the_same(films, tmp_path, on_ranks):
    run_dir = run_of_method("odd_one_out_tiny", films, tmp_path / "run")
    alone = judged(run_dir, films, out=tmp_path / "one")
    first, second = on_ranks(judged_on_a_rank, 2, run_dir, films, tmp_path / "two")
    assert second == [] and [numbers(result) for result in first] == [numbers(result) for result in alone]


def judged_on_a_rank(world: World, run_dir: Path, films: Path, out: Path) -> list[Result]:
    return judged(run_dir, films, world, out=out)


def numbers(result: Result) -> Result:
    return replace(result, seconds=0.0, created="", argv=[])


def test_what_has_no_question_is_refused_or_left_out(run_dir, films):
    for target in (run_dir, Path("test_vit")):
        assert judged(target, films, required=False) == []
        with pytest.raises(UserError, match=r"^model .*: has no head that answers a question; own-head judges runs"):
            judged(target, films)


def test_images_are_no_videos(films, digits, tmp_path):
    with pytest.raises(UserError, match="have no frames"):
        judged(run_of_method("arrow_of_time_tiny", films, tmp_path / "run"), digits)


def test_a_video_counts_once_in_the_interval():
    assert score_of(np.array([1.0, 0.0, 1.0, 1.0])).interval == wilson(3, 4)
    halves = score_of(np.array([0.5, 0.5, 1.0, 1.0]))
    assert halves.value == 0.75 and halves.interval == wilson(3, 4) and halves.correct is None


def test_an_image_and_its_sound_are_a_question_too(tmp_path, films, digits):
    shards = pack_named_digits(tmp_path, 40)
    run = small_run("audio_visual_tiny")
    run.data.shards, run.objective.form = str(shards), "distance"
    run_dir = leave_run(run, "audio_visual_tiny", tmp_path / "run", shards)
    (trained, untrained), asked = judged(run_dir, shards, seed=3), asked_of(str(run_dir), 3, has_question)
    spec = LoaderSpec(shards=ShardFolder(shards), views=asked[0].views, batch_size=1, seed=3)
    each = [asked[0].objective.eval().told(batch).item() for batch in make_pass(spec)]
    assert trained.accuracy == pytest.approx(np.mean(each)) and trained.num_test == 40 and set(each) <= {0.0, 0.5, 1.0}
    assert trained.tested == "40 test images"
    assert trained.settings["chance"] == untrained.settings["chance"] == 0.5
    silent = sorted((tmp_path / "source").rglob("*.wav"))[::9]
    for file in silent:
        file.unlink()
    pack(str(tmp_path / "source"), tmp_path / "fewer", workers=1)
    (fewer, _) = judged(run_dir, tmp_path / "fewer", seed=3, out=tmp_path)
    assert fewer.num_test == 35 and fewer.split.endswith("; 5 of 40 without .wav left out")
    assert fewer.key != trained.key and fewer.test_sha256 != trained.test_sha256
    for silent in (films, digits):
        with pytest.raises(UserError, match="have no sounds beside their images"):
            judged(run_dir, silent)
    assert judged(run_dir, films, required=False) == []
