"""The picture of a recipe's views shows what the loader delivers."""

from dataclasses import dataclass

import numpy as np
import torch
from captioned import captions, make_captioned
from films import pack_films
from PIL import Image

from eyespot.data_pipeline.augment.views import Clip, MaskView, RandomView, ViewSpec
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.config import Run
from eyespot.pretrain.images.image_grid import GAP
from eyespot.pretrain.loop.view_sheet import draw_views, num_columns, shown_captions, view_grid
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objective import Objective

LARGE, SMALL = 100, 48
COLORS = dict(jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, blur=0.5, solarize=0.2)
VIEWS = ViewSpec(views=(RandomView(size=LARGE, **COLORS), RandomView(size=SMALL, scale=(0.05, 0.3), **COLORS)))


class TwoSizes(Objective):
    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        def build(self, encoder, image_size):
            return TwoSizes()

    def views(self):
        return VIEWS

    def forward(self, batch):
        raise AssertionError("nothing is trained")


def test_a_row_is_the_image_and_the_views_that_a_run_trains_on(digits, tmp_path):
    run = Run(objective=TwoSizes.Config(), encoder=EncoderConfig(name="test_vit", image_size=32), seed=3)
    assert draw_views(run, ShardFolder.find(digits), tmp_path / "views.png", 4) == (4, 2)
    picture = torch.from_numpy(np.array(Image.open(tmp_path / "views.png"))).permute(2, 0, 1)
    cells = [row.split(LARGE + GAP, dim=2) for row in picture.split(LARGE + GAP, dim=1)]
    assert (len(cells), len(cells[0])) == (4, 1 + 3 * 2)

    loader = make_loader(LoaderSpec(shards=ShardFolder(digits / "train"), views=VIEWS, batch_size=4, seed=3))
    batch = next(loader)
    loader.close()
    mean, std = (torch.tensor(values)[:, None, None] for values in (VIEWS.mean, VIEWS.std))
    margin = (LARGE - SMALL) // 2
    for row in range(4):
        large, small = ((view[row] * std + mean).clamp(0, 1).mul(255).round().byte() for view in batch.views)
        assert torch.equal(cells[row][1][:, :LARGE, :LARGE], large)
        assert torch.equal(cells[row][2][:, margin : margin + SMALL, margin : margin + SMALL], small)
        assert (cells[row][2][:, :margin] == 255).all()
        for place in range(3, 7):
            assert not torch.equal(cells[row][place], cells[row][place - 2]), "another epoch, other views"


def test_a_clip_is_the_strip_of_its_frames(tmp_path, monkeypatch):
    clip = RandomView(size=LARGE, clip=Clip(3, 2))
    views = ViewSpec(views=(clip, MaskView(of=0), RandomView(size=SMALL)))
    monkeypatch.setattr(TwoSizes, "views", lambda self: views)
    run = Run(objective=TwoSizes.Config(), encoder=EncoderConfig(name="test_vit", image_size=32), seed=3)
    shards = ShardFolder(pack_films(tmp_path / "films", 6))
    grid, _ = view_grid(run, shards, 2)
    assert num_columns(views) == 4 and grid.shape == (2, 1 + 3 * 4, 3, LARGE, LARGE)
    loader = make_loader(LoaderSpec(shards=shards, views=views, batch_size=2, seed=3))
    batch = next(loader)
    loader.close()
    frames, masks = batch.views[0], batch.views[1]
    mean, std = (torch.tensor(values)[:, None, None] for values in (views.mean, views.std))
    tint = (torch.tensor([240, 50, 220])[:, None, None] / 255 - mean) / std
    masked = ((masks == 1) & (masks != shards.manifest.masks.ignored)).expand_as(frames)
    assert 0 < masked.float().mean() < 1
    assert torch.equal(grid[:, 1:4][~masked], frames[~masked])
    assert torch.allclose(grid[:, 1:4][masked], ((frames + tint) / 2)[masked], atol=1e-5)


def test_captions_are_those_of_the_rows(digits, tmp_path):
    shards = ShardFolder(make_captioned(tmp_path / "shards"))
    run = Run(objective=TwoSizes.Config(), encoder=EncoderConfig(name="test_vit", image_size=32), seed=3)
    loader = make_loader(LoaderSpec(shards=shards, views=VIEWS, batch_size=32, seed=3))
    ids = next(loader).ids.tolist()
    loader.close()
    assert shown_captions(run, shards, 32) == [captions(number) for number in ids]
    assert shown_captions(run, ShardFolder.find(digits), 2) == []
