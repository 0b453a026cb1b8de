"""Both sides of pairs: a vector for each image and each caption, and for each depth map."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from captioned import captions, make_captioned
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from eyespot.data_pipeline.augment.views import AudioView, CenterView, DepthView, RandomView, TextView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.data_pipeline.shards.members.depth_maps import depth_png
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.joint import towers
from eyespot.eval.joint.towers import asked_towers, beside, embed_pairs, still_views
from eyespot.eval.own_head import Asked
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.objective import Objective

ONE = World(rank=0, size=1, device=torch.device("cpu"))


class Stand(Objective):
    """Images and depth, each by a fixed matrix of its pixels."""

    joint = ("image", "depth")

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """Nothing."""

        def build(self, encoder: nn.Module, image_size: int) -> "Stand":
            raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.image_size = 8
        generator = torch.Generator().manual_seed(0)
        self.matrices = nn.ParameterDict(
            {kind: torch.randn(rows, 5, generator=generator) for kind, rows in {"image": 192, "depth": 64}.items()}
        )

    def views(self) -> ViewSpec:
        return ViewSpec(views=(RandomView(size=8, partner=False), DepthView(of=0, scale=0.01)))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def embed_joint(self, kind: str, view: Tensor) -> Tensor:
        return normalize(view.flatten(1) @ self.matrices[kind], dim=1)


def stand() -> Asked:
    objective = Stand().requires_grad_(False)
    views = still_views(objective)
    return Asked(name="stand", tag="stand", role="encoder", objective=objective, views=views, settings="{}")


@pytest.fixture(scope="module")
def depths(tmp_path_factory) -> Path:
    """Nine images with depth; two maps are the same, and so are two images."""
    root = tmp_path_factory.mktemp("depth")
    (root / "in").mkdir()
    for number in range(9):
        levels = np.random.default_rng(min(number, 7)).integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(levels).save(root / "in" / f"{number}.png")
        values = np.random.default_rng(3 if number == 4 else number).integers(1000, size=(8, 8), dtype=np.uint16)
        (root / "in" / f"{number}.depth.png").write_bytes(depth_png(values))
    pack(str(root / "in"), root / "shards", workers=1)
    return root / "shards"


def test_views_draw_nothing():
    class Sound(Stand):
        def views(self) -> ViewSpec:
            return ViewSpec(views=(RandomView(size=8), AudioView(partner=True, seconds=0.5)))

    assert still_views(Sound()).views == (CenterView(resize=8, size=8), AudioView(seconds=0.5, place="center"))
    assert still_views(Stand()).views == (CenterView(resize=8, size=8), DepthView(of=0, scale=0.01))


def test_depth_is_embedded_as_the_loader_shows_it(depths, monkeypatch):
    monkeypatch.setattr(towers, "BLOCK", 4)
    asked, shards, ids = stand(), ShardFolder(depths), np.arange(9)
    image, other = embed_pairs(asked, shards, ids, ONE) or ()
    (batch,) = make_pass(LoaderSpec(shards=shards, views=asked.views, batch_size=9))
    for side, view, kind in ((image, batch.views[0], "image"), (other, batch.views[1], "depth")):
        torch.testing.assert_close(side.vectors, asked.objective.embed_joint(kind, view[ids]))
        assert side.owners.tolist() == list(range(9))
        alike = (view[ids].flatten(1)[:, None] == view[ids].flatten(1)).all(2).numpy()
        assert np.array_equal(alike, side.contents[:, None] == side.contents) and alike.sum() == 11
    assert beside(asked.views, shards) == "depth.png"


def test_every_caption_is_embedded(clip_run, tmp_path):
    shards = ShardFolder(make_captioned(tmp_path / "shards"))
    asked, _ = asked_towers(str(clip_run), 0, "joint-retrieval")
    ids = np.array([0, 1, 2, 3, 6, 9])
    _, other = embed_pairs(asked, shards, ids, ONE) or ()
    texts = [text for number in ids for text in captions(number)]
    assert other.owners.tolist() == [place for place, number in enumerate(ids) for _ in captions(number)]
    view = asked.views.views[1]
    assert isinstance(view, TextView) and view.line == "first"
    with torch.inference_mode():
        tokens = torch.from_numpy(load_tokenizer("clip", view.context)(texts))
        torch.testing.assert_close(other.vectors, asked.objective.embed_joint("text", tokens))
    for one, caption in zip(other.contents, tokens, strict=True):
        same = [torch.equal(caption, each) for each in tokens]
        assert (other.contents == one).tolist() == same


def test_runs_of_one_tower_are_refused(clip_run, run_dir):
    for target in (str(run_dir), "test_vit"):
        with pytest.raises(
            UserError, match=r"^model .*: has no two towers that meet in one space; correspondence judges"
        ):
            asked_towers(target, 0, "correspondence")
    with pytest.raises(UserError, match=r"has no towers of images and sound that meet in one space"):
        asked_towers(str(clip_run), 0, "zero-shot", "sound")
