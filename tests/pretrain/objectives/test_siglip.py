"""SigLIP against a slow, obvious reference in float64, pair by pair; among ranks and micro-batches; its numbers."""

import pytest
import torch
from image_text_runs import TWICE, engine_gradients, make_batch, make_objective, shares
from torch import Tensor

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.objectives.siglip import SigLIP
from eyespot.pretrain.recipe_lookup import make_run

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def slow_loss(siglip: SigLIP, batch: Batch) -> Tensor:
    images, texts = batch.views
    x = [row / row.norm() for row in siglip.encoder(images) @ siglip.image_projection.weight.T]
    y = [row / row.norm() for row in siglip.text(texts)]
    scale, ids, total = torch.exp(siglip.log_scale[0]), batch.ids.tolist(), 0.0
    for i in range(len(x)):
        for j in range(len(x)):
            if i == j or ids[i] != ids[j]:
                logit = scale * x[i] @ y[j] + siglip.bias[0]
                total = total - torch.log(torch.sigmoid(logit if i == j else -logit))
    return total / len(x)


@pytest.mark.parametrize("ids", [None, TWICE], ids=["distinct", "one image twice"])
def test_loss_and_gradients_equal_the_slow_reference(ids):
    siglip, batch = make_objective(SigLIP), make_batch(ids)
    names, parameters = zip(*siglip.named_parameters(), strict=True)
    found, slow = siglip(batch), slow_loss(siglip, batch)
    assert found["loss"].item() == pytest.approx(slow.item(), rel=1e-12)
    assert found["scale"].item() == pytest.approx(10)
    pairs = zip(
        names, torch.autograd.grad(found["loss"], parameters), torch.autograd.grad(slow, parameters), strict=True
    )
    for name, ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= 1e-10, name
        assert theirs.abs().max() > 1e-8, name


def test_scale_and_bias_begin_at_the_papers():
    siglip = make_objective(SigLIP)
    assert siglip.scale().item() == pytest.approx(10)
    assert siglip.bias.tolist() == [-10]


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_ranks_and_micro_batches_are_one_process_with_the_whole_batch(ranks, on_ranks):
    batch = make_batch(TWICE)
    loss, whole = engine_gradients(SigLIP, [batch], ALONE)
    for answers in zip(*on_ranks(gradients_of_share, ranks), strict=True):
        assert sum(answer[0] for answer in answers) / ranks == pytest.approx(loss, abs=1e-10)
        for name, wanted in whole.items():
            for _, found in answers:
                assert (found[name] - wanted).abs().max() <= 1e-10, name
    loss_in_parts, in_parts = engine_gradients(SigLIP, shares(batch, 3), ALONE)
    assert loss_in_parts == pytest.approx(loss, abs=1e-10)
    assert max((in_parts[name] - wanted).abs().max() for name, wanted in whole.items()) <= 1e-10


def gradients_of_share(world: World) -> list[tuple[float, dict[str, Tensor]]]:
    """In one micro-batch, and in two."""
    own = shares(make_batch(TWICE), world.size)[world.rank]
    return [engine_gradients(SigLIP, shares(own, count), world) for count in (1, 2)]


def test_the_recipe_has_the_papers_numbers():
    """Zhai et al. 2023, section 4."""
    run = make_run("siglip_vitb16_webli")
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(1e-3)
    taken_off = effective_rate(run.optim.lr, run.data.batch_size) * run.optim.weight_decay
    assert taken_off == pytest.approx(1e-4), "of each weight at the largest rate; theirs is not multiplied by the rate"
    assert (run.optim.betas, run.data.batch_size, run.optim.clip) == ((0.9, 0.95), 32_768, 1.0)
    assert run.steps == pytest.approx(9e9 / 32_768, abs=1) and run.optim.warmup_steps == 10_000
    config = run.objective
    assert (run.encoder.name, config.text.context) == ("vit_base_patch16_224", 64)
    assert (config.out_dim, config.text_width, config.text_layers, config.text_heads) == (768, 768, 12, 12)
