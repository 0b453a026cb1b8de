"""What methods of two encoders share (image_text.py's text tower and the losses have tests of their own)."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from eyespot.data_pipeline.augment.views import DepthView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch, noise_views
from eyespot.pretrain.families.contrastive_objective import Rows
from eyespot.pretrain.families.two_towers import TwoEncoders, make_tower
from eyespot.pretrain.loop.initial_weights import encoder_copies
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.networks.towers.tower import TimmTower


class OfDepth(TwoEncoders):
    """The smallest method."""

    joint = ("image", "depth")

    @dataclass(kw_only=True, slots=True)
    class Config(TwoEncoders.Config):
        def build(self, encoder: nn.Module, image_size: int) -> "OfDepth":
            return OfDepth(self, encoder, image_size, make_tower("test_resnet", (1, 32, 32), "depth_encoder"), 0.5)

    def views(self) -> ViewSpec:
        return ViewSpec(views=(*sized_views(self.image_size, self.config.view).views, DepthView(of=0)))

    def compare(self, rows: Rows) -> dict[str, torch.Tensor]:
        return {"loss": (rows["image"] * rows["depth"]).sum(1).mean() * rows["scale"].mean()}


def make() -> tuple[OfDepth, Batch]:
    torch.manual_seed(0)
    objective = OfDepth.Config(out_dim=5).build(make_encoder(EncoderConfig(name="test_resnet", image_size=32)), 32)
    ids = torch.tensor([4, 2, 2])
    views = noise_views(objective.views(), 3, generator=torch.Generator().manual_seed(1))
    return objective, Batch(views=views, ids=ids, epochs=ids * 0, labels=ids, seed=0)


def test_rows_are_the_projected_towers_the_scale_and_ids():
    objective, batch = make()
    objective.eval()
    rows = objective.embed(batch)
    for kind, tower, view in zip(("image", "depth"), (objective.encoder, objective.depth), batch.views, strict=True):
        expected = tower(view) @ objective.get_submodule(f"{kind}_projection").weight.T
        assert torch.allclose(rows[kind], expected, atol=1e-6)
        units = objective.embed_joint(kind, view)
        assert torch.allclose(units, expected / expected.norm(dim=1, keepdim=True), atol=1e-6)
    assert rows["scale"].tolist() == pytest.approx([1.6487213] * 3)
    assert objective.targets(batch)["ids"].tolist() == [4, 2, 2]


def test_every_parameter_of_both_towers_learns():
    objective, batch = make()
    objective(batch)["loss"].backward()
    assert [name for name, p in objective.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_a_tower_of_the_encoders_kind_is_no_copy_of_it():
    """It begins with weights of its own, and is asked about no images."""
    objective, _ = make()
    assert encoder_copies(objective) == [objective.encoder]


def test_a_tower_sees_what_is_not_square():
    for name, shape in (("test_vit", (1, 80, 96)), ("resnet10t", (1, 40, 101)), ("test_vit", (1, 64, 64))):
        tower = make_tower(name, shape, "depth_encoder")
        assert tower(torch.zeros(1, *shape)).shape == (1, tower.num_features)


def test_how_the_tower_is_built_is_what_made_it():
    objective, _ = make()
    assert objective.towers() == {"depth": TimmTower(name="test_resnet", shape=(1, 32, 32))}


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("resnt18", (1, 8, 8), "field 'resnt18': timm has no such architecture; close names: resnet18"),
        (
            "test_vit",
            (1, 80, 101),
            r"field 'test_vit': a side of 101: is no multiple of the 16 pixels .* try 96 or 112",
        ),
        ("test_vit", (1, 101, 80), r"field 'test_vit': a side of 101: is no multiple of the 16 pixels"),
        ("test_vit", (1, 100, 100), r"field 'test_vit': a side of 100: is no multiple of the 16 pixels"),
        ("split_test_resnet", (1, 32, 32), "field 'split_test_resnet': sees images of 3 channels only"),
    ],
)
def test_a_tower_that_cannot_see_it_is_refused(name, shape, message):
    with pytest.raises(UserError, match=message):
        make_tower(name, shape, "field")
