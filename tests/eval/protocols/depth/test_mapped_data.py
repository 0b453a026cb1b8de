"""Images with depth maps, and masks beside them: from files to results, in the view of the encoder."""

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import draw_striped

from eyespot.data_pipeline.augment.views import CenterView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.evaluate import judge
from eyespot.eval.protocols.depth.mapped_data import mapped_data
from eyespot.eval.results.tables import score_table
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def slopes(tmp_path_factory):
    """Stripes with masks, on slopes that are the darker the farther; one image of 40 has no depth map."""
    root, generator = tmp_path_factory.mktemp("slopes"), np.random.default_rng(0)
    images, masks = draw_striped(root, 40)
    for number in range(40):
        pixels = np.asarray(Image.open(images / f"{number}.png"), np.float32)
        rows, columns = generator.uniform(-20, 20, 2)
        places = np.linspace(-1, 1, 32)
        depth = 1500 + 15 * (rows * places[:, None] + columns * places) + 500 * generator.uniform(-1, 1)
        pixels = (pixels / 2 + 127 - (depth - 1500)[..., None] / 10).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(images / f"{number}.png")
        depth[:4, :4] = 0
        if number != 7:
            Image.fromarray(depth.astype(np.uint16)).save(images / f"{number}.depth.png")
    pack(str(images), root / "shards", masks=masks, workers=1)
    return root / "shards"


def test_maps_are_the_files_as_the_view_shows_them(slopes):
    data = mapped_data(ShardFolder.find(slopes), seed=0)
    assert (len(data.train.rows), len(data.test.rows)) == (31, 8) and not set(data.train.rows) & set(data.test.rows)
    maps = data.test.maps(CenterView(resize=32, size=32))
    assert maps.shape == (8, 32, 32) and maps.dtype == np.float32
    assert (maps[:, :4, :4] == 0).all() and (maps[:, 4:] > 300).all()
    middle = data.test.maps(CenterView(resize=32, size=16))
    assert np.array_equal(middle, maps[:, 8:24, 8:24])


def test_depth_and_masks_of_the_same_shards_are_both_judged(slopes, tmp_path):
    known = dict(out=tmp_path, seed=0, pretrained=False, world=ALONE)
    random, pixels, guess = judge("dense-depth", "test_vit", slopes, **known)
    assert [one.role for one in (random, pixels, guess)] == ["random", "pixels", "pixels"]
    assert (guess.name, guess.num_test, guess.num_train, guess.num_classes) == ("mean depth of train", 8, 31, 0)
    assert pixels.scores["RMSE"].value < 0.6 * guess.scores["RMSE"].value, "brightness tells the depth"
    assert pixels.interval[0] <= pixels.accuracy <= pixels.interval[1]
    header, rows = score_table([random, pixels, guess])
    assert header[:3] == ["", "delta1", "95% interval"] and "RMSE, in the maps' unit" in header
    assert rows[2][header.index("RMSE, in the maps' unit")] == f"{guess.scores['RMSE'].value:.4g}"
    assert judge("dense-depth", "test_vit", slopes, **known)[1].created == pixels.created, "nothing is computed again"
    masked = judge("dense-linear", "test_vit", slopes, **known)
    assert [one.role for one in masked] == ["random", "pixels"] and masked[0].num_test == 8


def test_what_cannot_be_judged(digits, tmp_path):
    with pytest.raises(UserError, match=r"have no \.depth\.png beside their images"):
        mapped_data(ShardFolder.find(digits), 0)
    (tmp_path / "few").mkdir()
    for number in range(5):
        Image.new("RGB", (8, 8)).save(tmp_path / f"few/{number}.png")
        Image.fromarray(np.full((8, 8), 100, np.uint16)).save(tmp_path / f"few/{number}.depth.png")
    pack(str(tmp_path / "few"), tmp_path / "shards", workers=1)
    with pytest.raises(UserError, match="4 images with depth maps to learn from and 1 to test on"):
        mapped_data(ShardFolder.find(tmp_path / "shards"), 0)
