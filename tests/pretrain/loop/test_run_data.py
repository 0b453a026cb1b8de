"""From a run's settings to a loader's."""

import json
import os
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from in_pieces import in_pieces
from packed_parts import write_images
from relabelled import rewrite_labels

from eyespot.data_pipeline.augment.views import CenterView, ViewSpec
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.loading.blocks.open_blocks import NodeCache
from eyespot.data_pipeline.loading.loader import make_loader
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.parts.addition import Addition
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.distributed.collectives import agreed
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.loop.run_data import (
    RunData,
    lane_frame,
    normalized_views,
    open_data,
    patience_seconds,
    pictured_batch,
)
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_record import RunRecord
from eyespot.pretrain.trainer import fit

CENTER = ViewSpec(views=(CenterView(resize=10, size=8),))
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def objective_of(recipe: str) -> Objective:
    run = make_run(recipe)
    return fresh_objective(run)


def run_of(recipe: str, shards: Path) -> Run:
    run = make_run(recipe)
    run.data.shards = str(shards)
    return run


def data_of(recipe: str, shards: Path) -> RunData:
    return open_data(run_of(recipe, shards), ALONE)


def test_a_method_that_needs_labels_says_so_before_the_first_step(digits, tmp_path):
    data_of("supcon_tiny", digits).check_labels(objective_of("supcon_tiny"))
    photos = shutil.copytree(digits / "train", tmp_path / "photos")
    rewrite_labels(photos, lambda labels: np.full_like(labels, -1))
    manifest = ShardFolder(photos).manifest
    manifest.num_labeled = 0
    (photos / "manifest.json").write_text(manifest.to_json())
    data_of("simclr_tiny", photos).check_labels(objective_of("simclr_tiny"))
    with pytest.raises(UserError, match=r"data\.shards .*photos: SupCon needs labels and no image has one") as caught:
        data_of("supcon_tiny", photos).check_labels(objective_of("supcon_tiny"))
    assert "\n" not in str(caught.value)


def test_a_classifier_asks_for_a_label_of_its_own_for_each_image(digits):
    data, classify = data_of("classify_tiny", digits), objective_of("classify_tiny")
    data.check_labels(classify)
    classify.num_classes = 9
    with pytest.raises(UserError, match=r"objective\.num_classes 9: .* has label 9; set it to 10"):
        data.check_labels(classify)


def partly_labeled(digits: Path, folder: Path) -> Path:
    """The training digits, every third without label."""
    copy = shutil.copytree(digits / "train", folder / "train")
    rewrite_labels(copy, lambda labels: np.where(np.arange(len(labels)) % 3 == 0, -1, labels))
    return copy


def test_labels_of_some_images_are_enough_where_the_method_says_so(digits, tmp_path):
    shards = partly_labeled(digits, tmp_path)
    data_of("supcon_tiny", shards).check_labels(objective_of("supcon_tiny"))
    with pytest.raises(UserError, match=r"480 of 1,438 images have no label; name the others in data\.ids"):
        data_of("classify_tiny", shards).check_labels(objective_of("classify_tiny"))
    run = run_of("supcon_tiny", shards)
    run.data.ids = tmp_path / "ids.txt"
    run.data.ids.write_text("0\n3\n6\n")
    with pytest.raises(UserError, match=r"data\.ids: SupCon needs labels, and of the samples that it sees none"):
        open_data(run, ALONE).check_labels(objective_of("supcon_tiny"))


def test_a_run_sees_the_labels_of_its_labeled_ids_alone(digits, tmp_path):
    run, supcon = make_run("supcon_tiny"), objective_of("supcon_tiny")
    run.data = DataConfig(
        shards=str(partly_labeled(digits, tmp_path)), batch_size=1438, labeled_ids=tmp_path / "known.txt"
    )
    run.data.labeled_ids.write_text("4\n8\n1000\n")
    data = open_data(run, ALONE)
    data.check_labels(supcon)
    with closing(make_loader(data.loader_spec(supcon.views()))) as loader:
        batch = next(loader)
    truth = torch.from_numpy(data.shards.index["label"].astype(np.int64))[batch.ids]
    assert batch.ids[batch.labels >= 0].sort().values.tolist() == [4, 8, 1000]
    assert (batch.labels == torch.where(batch.labels < 0, -1, truth)).all()
    other = data.loader_spec(supcon.views(), ShardFolder(digits / "test"))  # a monitor's
    assert other.labeled_ids is None and other.ids is None
    assert data.loader_spec(supcon.views(), data.shards).labeled_ids.tolist() == [4, 8, 1000]


def test_it_is_said_once_who_may_be_told_some_labels(digits, tmp_path):
    for recipe, reason in (("simclr_tiny", "none of the labels; leave it out"), ("classify_tiny", "all of the labels")):
        run = run_of(recipe, digits)
        run.data.labeled_ids = tmp_path / "known.txt"
        run.data.labeled_ids.write_text("3 4 5")
        with pytest.raises(UserError, match=rf"data\.labeled_ids .*: .* learns from {reason}"):
            open_data(run, ALONE).check_labels(objective_of(recipe))
    run = run_of("supcon_tiny", digits)
    run.data.ids, run.data.labeled_ids = tmp_path / "ids.txt", tmp_path / "known.txt"
    run.data.ids.write_text("0 1 2")
    with pytest.raises(
        UserError, match=r"data\.labeled_ids: SupCon needs labels, and of the samples that it sees none"
    ):
        open_data(run, ALONE).check_labels(objective_of("supcon_tiny"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "at least one"), ("3 x", "one id a line"), ("1 1", "different"), ("1438", "1437"), ("1 3 6", "2 of 3 .*: 3")],
)
def test_wrong_labeled_ids_are_one_line(text, reason, digits, tmp_path):
    run = run_of("supcon_tiny", partly_labeled(digits, tmp_path))
    run.data.labeled_ids = tmp_path / "known.txt"
    run.data.labeled_ids.write_text(text)
    with pytest.raises(UserError, match=rf"data\.labeled_ids .*known\.txt: .*{reason}") as caught:
        open_data(run, ALONE)
    assert "\n" not in str(caught.value)


def test_a_method_that_computes_with_colours_has_its_own_normalization(digits):
    manifest = ShardFolder(digits / "train").manifest
    free = ViewSpec(views=(CenterView(),))
    fixed = replace(free, fixed=True)
    assert normalized_views(fixed, DataConfig(), manifest) == fixed
    assert normalized_views(free, DataConfig(normalize="dataset"), manifest).mean == manifest.image_stats.mean
    with pytest.raises(UserError, match=r"data\.normalize 'dataset': .* leave data\.normalize at imagenet"):
        normalized_views(fixed, DataConfig(normalize="dataset"), manifest)
    with pytest.raises(UserError, match=r"data\.mean \(0\.0, 0\.0, 0\.0\): this method"):
        normalized_views(fixed, DataConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), manifest)


def test_the_stream_is_made_of_the_chosen_samples_alone(digits, tmp_path):
    run = make_run("classify_tiny")
    run.data = DataConfig(
        shards=str(digits), batch_size=8, ids=tmp_path / "ids.txt", mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)
    )
    chosen = np.random.default_rng(0).permutation(1438)[:24]
    run.data.ids.write_text("\n".join(map(str, chosen)))
    data, views = open_data(run, ALONE), objective_of("classify_tiny").views()
    spec = data.loader_spec(views)
    assert spec.views == replace(views, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    with closing(make_loader(spec)) as loader:
        epoch = [next(loader) for _ in range(3)]
        state, following = loader.state_dict(), next(loader)
    assert sorted(torch.cat([batch.ids for batch in epoch]).tolist()) == sorted(chosen.tolist())
    assert data.sample_ids.tolist() == sorted(chosen.tolist())
    assert replace(data, ids=None).sample_ids == range(1438)
    assert following.epochs.tolist() == [1] * 8 and loader.num_samples == 24
    with closing(make_loader(spec, state=state)) as loader:
        assert torch.equal(next(loader).ids, following.ids)
    run.data.ids.write_text("\n".join(map(str, chosen[::-1])))
    with pytest.raises(UserError, match="loader state"):
        make_loader(open_data(run, ALONE).loader_spec(views), state=state)


@pytest.mark.parametrize("text", ["", "3 x", "1\n1", "-1", "1438", "1" + "0" * 30, "1" * 5000])
def test_wrong_ids_are_one_line(text, digits, tmp_path):
    run = run_of("mae_tiny", digits)
    run.data.ids = tmp_path / "ids.txt"
    run.data.ids.write_text(text)
    with pytest.raises(UserError, match=r"data\.ids"):
        open_data(run, ALONE)


def test_pictures_show_the_same_few_samples_every_time(digits):
    spec = data_of("mae_tiny", digits).loader_spec(objective_of("mae_tiny").views())
    first, again = pictured_batch(spec, ALONE), pictured_batch(spec, ALONE)
    assert torch.equal(first.ids, again.ids) and torch.equal(first.views[0], again.views[0])
    assert len(first.ids) == NUM_PICTURED


def test_shards_that_are_open_already_are_taken_if_they_are_the_runs(digits):
    run, opened = run_of("mae_tiny", digits), ShardFolder.find(digits)
    assert open_data(run, ALONE, opened).shards is opened
    other = open_data(run, ALONE, ShardFolder.find(digits / "test")).shards
    assert (other.path, other.named) == (digits / "train", digits)


def damaged(digits: Path, folder: Path) -> Path:
    """The digits with one bit of the index flipped."""
    copy = shutil.copytree(digits, folder / "digits")
    content = bytearray((copy / "train" / "index.npy").read_bytes())
    content[-10] ^= 1  # of the last checksum
    (copy / "train" / "index.npy").write_bytes(content)
    return copy


def opened_together(world: World, shards: Path) -> tuple[int, str]:
    """What each rank is told; the second does not hash, and would see nothing."""
    try:
        with agreed():
            open_data(run_of("mae_tiny", shards), world)
    except UserError as error:
        return world.local_rank, str(error)
    return world.local_rank, ""


def test_one_rank_of_a_node_hashes_and_all_fail_alike(digits, tmp_path, on_ranks):
    assert on_ranks(opened_together, 2, digits) == [(0, ""), (1, "")]
    shards = damaged(digits, tmp_path)
    (_, first), (_, second) = on_ranks(opened_together, 2, shards)
    assert first == second and "index.npy: changed since it was written" in first and "(rank" not in first
    second_of_a_node = replace(ALONE, local_rank=1)
    assert open_data(run_of("mae_tiny", shards), second_of_a_node).shards.index.shape == (1438,)


def test_all_that_is_wrong_with_the_files_is_found_when_they_are_opened(digits, tmp_path):
    shards = shutil.copytree(digits, tmp_path / "digits")
    tar = shards / "train" / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"shard-000000\.tar: has \d+ bytes where the manifest says"):
        open_data(run_of("mae_tiny", shards), ALONE)
    with pytest.raises(UserError, match=r"data\.shards: not given"):
        open_data(make_run("mae_tiny"), ALONE)


@pytest.mark.parametrize("again", [False, True])
def test_shards_that_were_there_when_the_run_began_are_an_outage(again, digits, tmp_path, monkeypatch):
    """A node that lost its mount must not end the run for good; a first start is told what is wrong."""
    monkeypatch.setenv("EYESPOT_ATTEMPT", "2" if again else "1")
    with pytest.raises(Outage if again else UserError, match="no such folder"):
        open_data(run_of("mae_tiny", tmp_path / "nowhere"), ALONE)
    shards = shutil.copytree(digits, tmp_path / "digits")
    (shards / "train" / "shard-000000.tar").unlink()
    with pytest.raises(Outage if again else UserError, match=r"shard-000000\.tar: is missing"):
        open_data(run_of("mae_tiny", shards), ALONE)
    (shards / "train" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not a shard manifest"):  # which no outage explains
        open_data(run_of("mae_tiny", shards), ALONE)


def test_a_rank_that_waits_gives_up_before_the_others_do(digits):
    run, two = run_of("mae_tiny", digits), replace(ALONE, size=2)
    assert patience_seconds(run, ALONE) == patience_seconds(run, two) == 300
    run.data.read_patience_seconds = 5000.0
    assert patience_seconds(run, ALONE) == 5000 and patience_seconds(run, two) == 0.8 * run.rank_timeout_seconds
    views = objective_of("mae_tiny").views()
    assert open_data(run, ALONE).loader_spec(views).patience_seconds == 5000


def test_sorted_tars_are_spoken_of_when_the_run_begins(digits, tmp_path, caplog):
    folder = shutil.copytree(digits / "train", tmp_path / "sorted")
    run = run_of("mae_tiny", folder)
    rewrite_labels(folder, lambda labels: np.sort(labels))
    run.data.shuffle_window = 256
    with caplog.at_level("WARNING", "eyespot"):
        open_data(run, ALONE)
        open_data(run, replace(ALONE, rank=1, size=2))
        assert caplog.text.count("the tars are sorted: a batch of 256 holds") == 1
        assert "widen --data.shuffle-window from 256 to" in caplog.text
        caplog.clear()
        run.data.shuffle_window = 2048
        open_data(run, ALONE)
        assert not caplog.text
    spec = open_data(run, ALONE).loader_spec(objective_of("mae_tiny").views())
    assert spec.shuffle_window == 2048


def test_lanes_are_dealt_by_the_micro_batch_that_the_run_began_with(digits, tmp_path):
    run, views = run_of("mae_tiny", digits), objective_of("mae_tiny").views()
    run.run_dir, run.data.lanes, run.data.accumulate = tmp_path, 16, 2
    spec = open_data(run, ALONE).loader_spec(views)
    assert (spec.lanes, spec.lane_frame, spec.batch_size) == (16, 128, 128)
    RunRecord(recipe="mae_tiny", run_key="1", lane_frame=64).write(tmp_path)
    assert lane_frame(run) == 128  # another run, which a start would refuse
    run.resume = "auto"
    spec = open_data(run, ALONE).loader_spec(views)
    assert (spec.lane_frame, spec.batch_size) == (64, 128)
    run.data.lanes = 48
    with pytest.raises(UserError, match=r"data\.lanes 48: must divide the micro-batch, 64 .*; for instance 32"):
        open_data(run, ALONE)


def test_a_pipe_of_ids_is_not_waited_for(digits, tmp_path):
    run = run_of("mae_tiny", digits)
    run.data.ids = tmp_path / "ids.txt"
    os.mkfifo(run.data.ids)
    with pytest.raises(UserError, match=r"data\.ids .*ids\.txt: not a plain file"):
        open_data(run, ALONE)


@pytest.fixture
def pieces(digits, tmp_path, monkeypatch) -> Path:
    """The digits with an index in pieces, of which nobody may ask for all rows."""

    def whole(shards: ShardFolder) -> None:
        raise AssertionError(f"{shards.path}: all rows were asked for")

    folder = in_pieces(digits / "train", tmp_path / "pieces")
    monkeypatch.setattr(ShardFolder, "index", property(whole))
    return folder


def test_a_run_on_pieces_begins_without_all_rows(pieces):
    data = data_of("simclr_tiny", pieces)
    assert data.sample_ids == range(1438)
    data.check_labels(objective_of("simclr_tiny"))
    with closing(make_loader(data.loader_spec(objective_of("simclr_tiny").views()))) as batches:
        assert len(next(batches).ids) == data.run.data.batch_size
    assert len(pictured_batch(data.loader_spec(objective_of("simclr_tiny").views()), ALONE).ids) == NUM_PICTURED


@pytest.mark.parametrize("ids", [None, [3, 5, 8, 700]])
def test_labels_of_pieces_are_held_against_the_method(ids, pieces, tmp_path):
    """Of all samples by what the manifest says, which every page that is read has to bear out."""
    data = data_of("classify_tiny", pieces)
    data = data if ids is None else replace(data, ids=np.array(ids))
    classify = objective_of("classify_tiny")
    data.check_labels(classify)
    classify.num_classes = 2
    with pytest.raises(UserError, match=r"num_classes 2: .* has label \d; set it to 10"):
        data.check_labels(classify)
    if ids is None:
        data.shards.manifest.num_labeled = 1000
        with pytest.raises(UserError, match="438 of 1,438 images have no label"):
            data.check_labels(objective_of("classify_tiny"))


def test_some_labels_of_pieces_are_read_by_id(pieces, tmp_path):
    run = run_of("supcon_tiny", pieces)
    run.data.labeled_ids = tmp_path / "ids.txt"
    run.data.labeled_ids.write_text("4 8 1000")
    data = open_data(run, ALONE)
    data.check_labels(objective_of("supcon_tiny"))
    assert data.labeled_ids is not None and data.labeled_ids.tolist() == [4, 8, 1000]


def test_a_cache_changes_no_batch(digits, tmp_path):
    run = run_of("mae_tiny", digits)
    plain = data_of("mae_tiny", digits)
    assert plain.loader_spec(CENTER).cache is None
    run.data.cache_dir, run.data.cache_gb = tmp_path / "blocks", 1.5
    cached = open_data(run, ALONE).loader_spec(CENTER)
    assert cached.cache == NodeCache(folder=tmp_path / "blocks", gb=1.5)
    with closing(make_loader(plain.loader_spec(CENTER))) as one, closing(make_loader(cached)) as other:
        for _ in range(3):
            before, after = next(one), next(other)
            assert torch.equal(before.views[0], after.views[0]) and torch.equal(before.ids, after.ids)
    assert list((tmp_path / "blocks").glob("*.block"))


@pytest.mark.parametrize("mixed", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_a_run_goes_on_with_what_it_began_with_when_images_were_added(digits, tmp_path, mixed):
    """The digests of its samples are those of a run to which nothing was added; a new run sees all."""
    shards = shutil.copytree(digits / "train", tmp_path / "digits")
    of_run = f"{digits / 'test'}:1,{shards}:2" if mixed else str(shards)

    def digests(name: str, **changes: object) -> list[str]:
        run = run_of("mae_tiny", of_run)
        run.run_dir, run.data.batch_size, run.steps, run.save_every = tmp_path / name, 24, 4, 2
        run.log_every, run.picture_every, run.track, run.device = 1, 0, False, "cpu"
        for field, value in changes.items():
            setattr(run, field, value)
        fit(run, "mae_tiny")
        lines = (run.run_dir / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["sample_digest"] for line in lines]

    alone = digests("alone")
    assert digests("grown", stop_after=2) == alone[:2]
    before = ShardFolder(shards)
    addition = Addition(shards)
    pack(str(write_images(tmp_path / "more", 40, classes=("3", "new"))), addition.folder, goal=addition, workers=1)
    assert ShardFolder(shards).manifest.num_samples > before.manifest.num_samples
    assert digests("grown", resume="auto") == alone
    new = digests("new", resume="auto")  # there is nothing to go on from: it begins
    assert new != alone
    assert RunRecord.read(tmp_path / "new" / "run.json").manifests[-1] == ShardFolder(shards).manifest_sha256
    assert RunRecord.read(tmp_path / "grown" / "run.json").manifests[-1] == before.manifest_sha256
