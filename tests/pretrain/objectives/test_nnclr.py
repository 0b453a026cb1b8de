"""NNCLR against a slow, obvious reference in float64: one neighbour and one pair after the other."""

import pytest
import torch
from step_passes import take_passes

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.nnclr import NNCLR
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

COUNT, SIZE = 4, 16
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def make_nnclr() -> NNCLR:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=SIZE))
    config = NNCLR.Config(temperature=0.3, hidden_dim=12, predictor_dim=10, out_dim=5, queue_size=8)
    objective = config.build(encoder, SIZE)
    with torch.no_grad():  # norms start at shift 0 and residual branches at scale 0; let the comparison see them
        for parameter in objective.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    objective.queue.ids[:] = torch.tensor([0, 1, 2, 3, 0, 9, -1, -1])
    return objective.double()


def make_batch(first: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(1 + first)
    views = [torch.randn(COUNT, 3, SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(2)]
    ids = torch.arange(first, first + COUNT)
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def slow_loss(nnclr: NNCLR, batch: Batch):
    z = nnclr.head(nnclr.encoder(torch.cat(batch.views)))
    p = [row / row.norm() for row in nnclr.predictor(z)]
    near = []
    for row, number in zip(z.detach(), batch.ids.tolist() * 2, strict=True):
        others = [key for key, own in zip(nnclr.queue.keys, nnclr.queue.ids.tolist(), strict=True) if own != number]
        key = max(others, key=lambda key: float(key @ row))
        near.append(key / key.norm())  # it became float64 after it had unit length
    losses = []
    for keys, answers in ((near[:COUNT], p[COUNT:]), (near[COUNT:], p[:COUNT])):
        for i in range(COUNT):
            right = torch.exp(keys[i] @ answers[i] / 0.3)
            losses.append(-torch.log(right / sum(torch.exp(keys[i] @ answers[j] / 0.3) for j in range(COUNT))))
            losses.append(-torch.log(right / sum(torch.exp(keys[j] @ answers[i] / 0.3) for j in range(COUNT))))
    return torch.stack(losses).mean()


def test_loss_and_gradients_equal_the_slow_reference():
    nnclr, batch = make_nnclr(), make_batch()
    names, parameters = zip(*nnclr.named_parameters(), strict=True)
    fast, slow = nnclr(batch)["loss"], slow_loss(nnclr, batch)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    pairs = zip(names, torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True)
    for name, ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= 1e-10, name
        assert theirs.abs().max() > 1e-8, name


def test_outputs_of_a_step_enter_the_queue_once_also_where_it_has_micro_batches():
    nnclr = make_nnclr()
    settings = Settings(accumulate=2, clip=None, precision="fp32")
    engine = make_engine("ddp", nnclr, ALONE, lambda module: make_optimizer(module, OptimConfig()), settings)
    take_passes(engine, [(make_batch(20), 1), (make_batch(24), 2)])
    assert nnclr.queue.ids.tolist() == [0, 1, 2, 3, 0, 9, -1, -1]
    nnclr.after_step(0.1)
    assert nnclr.queue.ids.tolist() == list(range(20, 28))
    nnclr(make_batch(30))
    nnclr.after_skip()
    nnclr.after_step(0.2)
    with torch.no_grad():  # somebody's look
        nnclr(make_batch(40))
    nnclr.after_step(0.3)
    assert nnclr.queue.ids.tolist() == list(range(20, 28))


def test_wrong_numbers_name_their_field():
    with pytest.raises(UserError, match=r"objective\.queue_size 100: must be a multiple of data\.batch_size 64.* 128"):
        NNCLR.Config(queue_size=100).check_batch(64)
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        NNCLR.Config().check_batch(1)


def test_nnclr_on_imagenet_has_the_papers_numbers():
    run = make_run("nnclr_r50_in1k")
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(0.3 * 4096 / 256)
    assert (run.optim.name, run.optim.weight_decay, run.objective.temperature) == ("lars", 1e-6, 0.1)
    assert run.steps == pytest.approx(1000 * 1_281_167 / 4096, abs=1)
    assert (run.objective.queue_size, run.objective.out_dim, run.objective.predictor_dim) == (98304, 256, 4096)
    run.objective.check_batch(run.data.batch_size)
