"""CLIP against a slow, obvious reference in float64, pair by pair; among ranks and micro-batches; its numbers."""

import math

import numpy as np
import pytest
import torch
from engine_states import ENGINES, make_single_engine, whole_state
from engine_states import make_batch as make_tiny_batch
from image_text_runs import TWICE, engine_gradients, make_batch, make_objective, shares
from torch import Tensor

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World, own_share
from eyespot.pretrain.engine import MicroBatch
from eyespot.pretrain.families.contrastive_objective import Rows
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.clip import CLIP, LARGEST_SCALE
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipe_lookup import make_run

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def slow_loss(clip: CLIP, batch: Batch) -> Tensor:
    images, texts = batch.views
    x = [row / row.norm() for row in clip.encoder(images) @ clip.image_projection.weight.T]
    y = [row / row.norm() for row in clip.text(texts)]
    scale, ids, losses = torch.exp(clip.log_scale[0]), batch.ids.tolist(), []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j == i or ids[j] != ids[i]]
        right = torch.exp(scale * x[i] @ y[i])
        losses.append(-torch.log(right / sum(torch.exp(scale * x[i] @ y[j]) for j in others)) / 2)
        losses[-1] -= torch.log(right / sum(torch.exp(scale * x[j] @ y[i]) for j in others)) / 2
    return torch.stack(losses).mean()


@pytest.mark.parametrize("ids", [None, TWICE], ids=["distinct", "one image twice"])
def test_loss_and_gradients_equal_the_slow_reference(ids):
    clip, batch = make_objective(CLIP), make_batch(ids)
    names, parameters = zip(*clip.named_parameters(), strict=True)
    found, slow = clip(batch), slow_loss(clip, batch)
    assert found["loss"].item() == pytest.approx(slow.item(), rel=1e-12)
    assert found["scale"].item() == pytest.approx(math.exp(clip.log_scale.item()))
    pairs = zip(
        names, torch.autograd.grad(found["loss"], parameters), torch.autograd.grad(slow, parameters), strict=True
    )
    for name, ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= 1e-10, name
        assert theirs.abs().max() > 1e-8, name


def test_the_scale_begins_at_the_papers():
    clip = CLIP.Config(text_layers=1).build(make_encoder(EncoderConfig(name="test_vit")), 160)
    assert clip.scale().item() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("name", ENGINES)
def test_the_scale_does_not_pass_100_and_comes_down_again(name):
    engine = make_single_engine("clip", name, ALONE, optim=OptimConfig(name="sgd", momentum=0.0, weight_decay=0.0))
    near = whole_state(engine) | {"model.log_scale": np.full(1, math.log(LARGEST_SCALE) - 5e-4, np.float32)}
    engine.load_tensors(
        lambda tensors: [own_share(each).copy_(torch.from_numpy(near[key])) for key, each in tensors.items()]
    )
    batch, scales = make_tiny_batch(engine.objective), []
    for sign in (-1, -1, 1):  # larger, larger, smaller

        def compare(rows: Rows, sign: int = sign) -> dict[str, Tensor]:
            return {"loss": sign * rows["scale"].mean() + 0 * (rows["image"].sum() + rows["text"].sum())}

        engine.objective.compare = compare
        engine.backward(engine.forward(MicroBatch(batch=batch))["loss"])
        _, taken = engine.step(1e-5)  # the slope is 100: the logarithm moves by 0.001
        engine.objective.after_step(0.5, taken)
        scales.append(math.exp(whole_state(engine)["model.log_scale"].item()))
    engine.close()
    assert scales == pytest.approx([100, 100, 100 * math.exp(-1e-3)], rel=1e-5)


def test_a_step_that_the_device_did_not_take_leaves_the_scale():
    clip = make_objective(CLIP)
    with torch.no_grad():
        clip.log_scale.fill_(7.0)
    clip.after_step(0.5, torch.tensor(False))
    assert clip.log_scale.item() == 7
    clip.after_step(0.5, torch.tensor(True))
    assert clip.scale().item() == pytest.approx(100)


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_ranks_and_micro_batches_are_one_process_with_the_whole_batch(ranks, on_ranks):
    batch = make_batch(TWICE)
    loss, whole = engine_gradients(CLIP, [batch], ALONE)
    for answers in zip(*on_ranks(gradients_of_share, ranks), strict=True):
        assert sum(answer[0] for answer in answers) / ranks == pytest.approx(loss, abs=1e-10)
        for name, wanted in whole.items():
            for _, found in answers:
                assert (found[name] - wanted).abs().max() <= 1e-10, name
    loss_in_parts, in_parts = engine_gradients(CLIP, shares(batch, 3), ALONE)
    assert loss_in_parts == pytest.approx(loss, abs=1e-10)
    assert max((in_parts[name] - wanted).abs().max() for name, wanted in whole.items()) <= 1e-10


def gradients_of_share(world: World) -> list[tuple[float, dict[str, Tensor]]]:
    """In one micro-batch, and in two."""
    own = shares(make_batch(TWICE), world.size)[world.rank]
    return [engine_gradients(CLIP, shares(own, count), world) for count in (1, 2)]


def test_the_recipe_has_the_papers_numbers():
    """Radford et al. 2021, tables 18 to 20."""
    run = make_run("clip_vitb32_wit400m")
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(5e-4)
    assert (run.optim.name, run.optim.weight_decay, run.optim.betas) == ("adamw", 0.2, (0.9, 0.98))
    assert run.optim.eps == 1e-6
    assert (run.data.batch_size, run.optim.warmup_steps) == (32_768, 2000)
    assert run.steps == pytest.approx(32 * 400e6 / 32_768, abs=1)
    config = run.objective
    assert run.encoder.name == "vit_base_patch32_clip_224"
    assert (config.out_dim, config.text_width, config.text_layers, config.text_heads) == (512, 512, 12, 8)
    assert (config.text.tokenizer, config.text.context) == ("clip", 77)
    view = config.view
    assert (view.scale, view.flip, any(view.jitter), view.grayscale, view.blur) == ((0.9, 1.0), 0.0, False, 0.0, 0.0)
