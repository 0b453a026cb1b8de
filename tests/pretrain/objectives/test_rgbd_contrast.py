"""CMC of images and depth against a slow, obvious reference in float64, pair by pair; among ranks; its towers."""

import math
from dataclasses import replace

import pytest
import torch
from step_passes import take_passes
from torch import Tensor

from eyespot.data_pipeline.augment.views import DepthView, RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.images.standard_depth import standard_depth
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.rgbd_contrast import RGBDContrast
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
COUNT, SIZE = 12, 32
TWICE = [0, 1, 2, 3, 4, 3, 6, 7, 8, 9, 1, 11]
"""Ids of a batch that holds two samples twice."""


def make_objective() -> RGBDContrast:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=8))
    return RGBDContrast.Config(out_dim=7, depth_encoder="test_vit").build(encoder, SIZE).double()


def make_batch(ids: list[int] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(COUNT, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    depth = 2000 * torch.rand(COUNT, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)
    depth[depth < 200] = 0
    numbers = torch.tensor(ids or list(range(COUNT)))
    return Batch(views=[images, depth], ids=numbers, epochs=torch.zeros_like(numbers), labels=numbers, seed=0)


def slow_loss(method: RGBDContrast, batch: Batch) -> Tensor:
    images, depths = batch.views[0], standard_depth(batch.views[1])[0]
    x = [row / row.norm() for row in method.encoder(images) @ method.image_projection.weight.T]
    y = [row / row.norm() for row in method.depth(depths) @ method.depth_projection.weight.T]
    scale, ids, losses = torch.exp(method.log_scale[0]), batch.ids.tolist(), []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j == i or ids[j] != ids[i]]
        right = torch.exp(scale * x[i] @ y[i])
        losses.append(-torch.log(right / sum(torch.exp(scale * x[i] @ y[j]) for j in others)) / 2)
        losses[-1] -= torch.log(right / sum(torch.exp(scale * x[j] @ y[i]) for j in others)) / 2
    return torch.stack(losses).mean()


@pytest.mark.parametrize("ids", [None, TWICE], ids=["distinct", "one image twice"])
def test_loss_and_gradients_equal_the_slow_reference(ids):
    method, batch = make_objective(), make_batch(ids)
    names, parameters = zip(*((n, p) for n, p in method.named_parameters() if p.requires_grad), strict=True)
    found, slow = method(batch), slow_loss(method, batch)
    assert found["loss"].item() == pytest.approx(slow.item(), rel=1e-12)
    assert found["scale"].item() == pytest.approx(1 / 0.07)
    pairs = zip(
        names, torch.autograd.grad(found["loss"], parameters), torch.autograd.grad(slow, parameters), strict=True
    )
    for name, ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= 1e-10, name
        assert theirs.abs().max() > 0, name


def test_the_unit_of_depth_plays_no_part():
    method, batch = make_objective(), make_batch()
    metres = replace(batch, views=[batch.views[0], 0.001 * batch.views[1]])
    assert method(metres)["loss"].item() == pytest.approx(method(batch)["loss"].item(), rel=1e-9)


def test_the_scale_never_exceeds_100():
    method = make_objective()
    with torch.no_grad():
        method.log_scale.fill_(7.0)
    method.after_step(0.5)
    assert method.scale().item() == pytest.approx(100)


def test_views_are_a_crop_and_its_depth_and_both_towers_meet_in_one_space():
    method, batch = make_objective(), make_batch()
    crop, depth = method.views().views
    assert isinstance(crop, RandomView) and crop.size == SIZE and depth == DepthView(of=0)
    assert method.joint == ("image", "depth")
    for kind, view in zip(method.joint, batch.views, strict=True):
        assert torch.allclose(method.embed_joint(kind, view).norm(dim=1), torch.ones(COUNT).double())


def test_the_tower_that_is_written_down_sees_what_this_one_sees():
    method, batch = make_objective(), make_batch()
    tower = method.towers()["depth"]
    built = tower.build().double()
    built.load_state_dict(method.depth.state_dict())
    rows = method.depth_projection(tower.read(built, batch.views[1]))
    expected = method.embed_joint("depth", batch.views[1])
    assert torch.allclose(rows / rows.norm(dim=1, keepdim=True), expected, atol=1e-12)


def test_a_picture_shows_depth_below_its_image():
    batch = make_batch()
    image, depth = make_objective().picture(batch)
    assert torch.equal(image, batch.views[0][: len(image)].float())
    assert torch.allclose(depth, standard_depth(batch.views[1])[0][: len(image)].float().expand_as(image), atol=1e-6)


def test_another_architecture_names_its_field():
    encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=SIZE))
    with pytest.raises(UserError, match=r"objective\.depth_encoder 'resnt50': timm has no such architecture"):
        RGBDContrast.Config(depth_encoder="resnt50").build(encoder, SIZE)


def parts_of(batch: Batch, count: int) -> list[Batch]:
    return [
        replace(
            batch,
            views=[view[rows] for view in batch.views],
            **{name: getattr(batch, name)[rows] for name in ("ids", "epochs", "labels")},
        )
        for rows in torch.arange(len(batch)).chunk(count)
    ]


def gradients(parts: list[Batch], world: World) -> tuple[float, dict[str, Tensor]]:
    method = make_objective()
    settings = Settings(accumulate=len(parts), clip=None, precision="fp32")
    engine = make_engine("ddp", method, world, lambda module: make_optimizer(module, OptimConfig()), settings)
    losses = [float(scalars["loss"]) for scalars in take_passes(engine, [(part, 0) for part in parts])]
    return losses[0], {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def gradients_of_share(world: World) -> list[tuple[float, dict[str, Tensor]]]:
    """In one micro-batch, and in two."""
    own = parts_of(make_batch(TWICE), world.size)[world.rank]
    return [gradients(parts_of(own, count), world) for count in (1, 2)]


def test_ranks_and_micro_batches_are_one_process_with_the_whole_batch(on_ranks):
    loss, whole = gradients([make_batch(TWICE)], ALONE)
    for answers in zip(*on_ranks(gradients_of_share, 2), strict=True):
        assert sum(answer[0] for answer in answers) / 2 == pytest.approx(loss, abs=1e-10)
        for name, wanted in whole.items():
            for _, found in answers:
                assert (found[name] - wanted).abs().max() <= 1e-10, name


def test_the_recipe():
    run = make_run("rgbd_contrast_r50_nyu")
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(0.03)
    assert (run.optim.name, run.optim.weight_decay, run.objective.out_dim) == ("sgd", 1e-4, 128)
    assert (run.encoder.name, run.objective.depth_encoder, run.encoder.image_size) == ("resnet50", "resnet50", 128)
    assert math.isclose(run.steps, 2000 * 1449 / 128, abs_tol=1)
