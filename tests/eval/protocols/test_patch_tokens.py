"""What dense protocols judge and on what: patch tokens, raw patches, images with masks; the whole, end to end."""

import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import IGNORED, draw_striped
from torch import nn

from eyespot.data_pipeline.augment.views import CenterView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.feature_cache import features_of
from eyespot.eval.encoders.subject import OneKind, Subject, subjects_of
from eyespot.eval.evaluate import judge
from eyespot.eval.protocols.dense import knn_candidates, linear_candidates
from eyespot.eval.protocols.patch_tokens import PatchTokens, RawPatches, dense_subjects, dense_task, masked_data
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def striped(tmp_path_factory):
    root = tmp_path_factory.mktemp("striped")
    images, masks = draw_striped(root, 60)
    pack(str(images), root / "shards", masks=masks, workers=1)
    return root / "shards"


def small_vit(seed: int = 0) -> list[Subject]:
    return subjects_of("test_vit", seed=seed, pretrained=False)


def test_patch_tokens_are_those_of_timm():
    (random,) = [subject for subject in dense_subjects(small_vit()) if subject.role == "random"]
    assert isinstance(random.encoder, PatchTokens)
    size, grid = random.views.views[0].size, random.encoder.grid
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        rows = random.encoder(images).unflatten(1, (grid**2, -1))
        tokens = random.encoder.encoder.forward_features(images)  # type: ignore[operator]
    assert torch.equal(rows, tokens[:, -(grid**2) :])


def test_raw_patches_are_cut_row_by_row():
    image = torch.arange(3 * 8 * 8.0).view(1, 3, 8, 8)
    rows = RawPatches(grid=4)(image).view(16, 12)
    assert torch.equal(rows[6], image[0, :, 2:4, 4:6].flatten())  # row 1, column 2


def test_raw_patches_have_the_grid_of_the_encoder():
    found = dense_subjects(small_vit())
    assert [subject.role for subject in found] == ["random", "pixels"]
    assert len({subject.digest() for subject in [*found, *small_vit()]}) == 4
    resnet = dense_subjects(subjects_of("test_resnet", seed=0, pretrained=False))
    grids = [subject.encoder.grid for subject in resnet]
    assert len(set(grids)) == 1


class Stripes(OneKind):
    """Made by hand: how much rows and columns of a patch change; the phase of stripes plays no part."""

    kind, grid = "patches", 8

    def forward(self, images):
        gray = images.mean(1, keepdim=True)
        across, down = gray.diff(dim=3, append=gray[..., -1:]), gray.diff(dim=2, append=gray[:, :, -1:])
        return (
            nn.functional.avg_pool2d(torch.cat([across.abs(), down.abs()], 1), 4).flatten(2).transpose(1, 2).flatten(1)
        )


def made_by_hand() -> list[Subject]:
    views = ViewSpec(views=(CenterView(resize=32, size=32),), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return [
        Subject(name="by hand", tag="hand", role="encoder", encoder=Stripes(), views=views),
        Subject(name="raw pixels", tag="pixels", role="pixels", encoder=RawPatches(8), views=views),
    ]


def test_an_encoder_that_sees_stripes_beats_raw_pixels(striped, tmp_path):
    """The classes differ in nothing that a linear classifier of pixels could use; a random guess is below 1/3.

    Neighbours of pixels, though, are stripes of the same phase: there pixels do as well.
    """
    data, found = masked_data(ShardFolder.find(striped), seed=0), {}
    for subject in made_by_hand():
        tokens = {striped: features_of(subject, ShardFolder(striped), tmp_path, ALONE)["patches"]}
        task = dense_task(subject, data, tokens, seed=0, device=torch.device("cpu"))
        for candidates in (linear_candidates, knn_candidates):
            best = max(candidates(task), key=lambda candidate: candidate.validation or 0.0)
            assert best.share is not None
            found[subject.role, candidates] = best.share.value
    assert found["encoder", linear_candidates] > 0.8 > 0.4 > found["pixels", linear_candidates]
    assert found["encoder", knn_candidates] > 0.8


def judged(world: World, run_dir, shards, out) -> list[dict]:
    found = []
    for protocol in ("dense-linear", "dense-knn"):
        results = judge(protocol, str(run_dir), shards, out=out, seed=0, pretrained=False, world=world)
        found += [{**asdict(result), "seconds": 0, "created": "", "argv": []} for result in results]
    return found


def test_any_number_of_ranks_gives_the_same_results(run_dir, striped, tmp_path, on_ranks):
    alone = judged(ALONE, run_dir, striped, tmp_path / "1")
    assert [result["role"] for result in alone] == 2 * ["encoder", "random", "pixels"]
    for result in alone:
        assert result["num_test"] == 12 and result["num_train"] == 48 and result["num_classes"] == 3
        assert result["correct"] is None and result["num_correct"] is None and 0 < result["accuracy"] < 1
        assert result["interval"][0] <= result["accuracy"] <= result["interval"][1]
        assert len(result["scores"]["image mIoU"]["values"]) == 12
        assert result["metrics"][result["metric"]] == result["accuracy"]
    for size in (2, 3):
        first, *others = on_ranks(judged, size, run_dir, striped, tmp_path / str(size))
        assert first == alone and not any(others)
    assert judged(ALONE, run_dir, striped, tmp_path / "1") == alone  # read from the files


def test_other_masks_are_another_result(striped, tmp_path):
    kept = judge("dense-knn", "test_vit", striped, out=tmp_path, seed=0, pretrained=False, world=ALONE)
    shutil.copytree(striped, tmp_path / "shards")
    manifest = ShardFolder(striped).manifest
    assert manifest.masks
    manifest.masks.ignored = 0
    (tmp_path / "shards/manifest.json").write_text(manifest.to_json())
    fresh = judge("dense-knn", "test_vit", tmp_path / "shards", out=tmp_path, seed=0, pretrained=False, world=ALONE)
    assert {result.test_sha256 for result in kept} == {masked_data(ShardFolder.find(striped), 0).test.digest()}
    assert {result.test_sha256 for result in fresh} == {
        masked_data(ShardFolder.find(tmp_path / "shards"), 0).test.digest()
    }
    assert not {result.key for result in kept} & {result.key for result in fresh}


def test_ignored_values_count_nowhere(striped):
    data = masked_data(ShardFolder.find(striped), seed=0)
    subject = made_by_hand()[1]
    tokens = {striped: np.zeros((60, 64 * 48), np.float32)}
    task = dense_task(subject, data, tokens, seed=0, device=torch.device("cpu"))
    assert task.train.maps.shape == (48, 32, 32) and set(task.train.maps.unique().tolist()) == {0, 1, 2, IGNORED}
    assert not set(data.train.rows) & set(data.test.rows) and len(data.train.rows) + len(data.test.rows) == 60
    tokens[striped][17, 5] = np.nan
    with pytest.raises(UserError, match="not all finite"):
        dense_task(subject, data, tokens, seed=0, device=torch.device("cpu"))


def test_train_and_test_of_their_own(tmp_path):
    for split, count, seed in (("train", 6, 0), ("test", 3, 1)):
        images, masks = draw_striped(tmp_path / split, count, seed=seed)
        shutil.copytree(images, tmp_path / "images" / split)
        shutil.copytree(masks, tmp_path / "masks" / split)
    pack(str(tmp_path / "images"), tmp_path / "shards", masks=tmp_path / "masks", workers=1)
    data = masked_data(ShardFolder.find(tmp_path / "shards"), seed=0)
    assert (data.split, len(data.train.rows), len(data.test.rows)) == ("its own test split", 6, 3)
    assert data.classes == ["0", "1", "2"] and len(data.test.shards.index) == 3


def test_what_cannot_be_judged(digits, tmp_path):
    with pytest.raises(UserError, match="have no segmentation masks; pack images with theirs"):
        masked_data(ShardFolder.find(digits), 0)
    images, masks = draw_striped(tmp_path / "few", 5)
    pack(str(images), tmp_path / "few/shards", masks=masks, workers=1)
    with pytest.raises(UserError, match="4 images with masks to learn from and 1 to test on"):
        masked_data(ShardFolder.find(tmp_path / "few/shards"), 0)
    images, masks = draw_striped(tmp_path / "one", 8)
    for path in masks.iterdir():
        Image.new("L", (32, 32), 1).save(path)
    pack(str(images), tmp_path / "one/shards", masks=masks, workers=1)
    with pytest.raises(UserError, match=r"masks of 2 classes \(value 255 is ignored\); dense protocols need"):
        masked_data(ShardFolder.find(tmp_path / "one/shards"), 0)
