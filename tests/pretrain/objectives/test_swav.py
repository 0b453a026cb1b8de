"""SwAV against a slow reference in float64, view by view and sample by sample; what the queue does, and does not."""

import math

import pytest
import torch
from step_passes import take_passes

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.networks.encoders import EncoderConfig, features, make_encoder
from eyespot.pretrain.objectives.swav import SwAV

COUNT, SIZE, NUM_PROTOTYPES = 6, 16, 5
LARGE, SMALL = RandomView(), RandomView(size=8)


def make_swav(encoder: str = "test_vit", **changes) -> SwAV:
    torch.manual_seed(0)
    made = make_encoder(EncoderConfig(name=encoder, image_size=SIZE, patch_size=4 if encoder == "test_vit" else None))
    settings = {"num_small": 2, "hidden_dim": 8, "out_dim": 6, "num_prototypes": NUM_PROTOTYPES}
    settings |= {"large": LARGE, "small": SMALL}
    return SwAV.Config(**settings | changes).build(made, SIZE).double()


def make_batch(objective: SwAV, seed: int = 0, start: int = 0, count: int = COUNT) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    sizes = [view.size for view in objective.views().views]
    views = [torch.randn(COUNT, 3, size, size, generator=generator, dtype=torch.float64) for size in sizes]
    ids = torch.arange(start, start + count)
    return Batch(views=[view[start : start + count] for view in views], ids=ids, epochs=ids, labels=ids, seed=0)


def slow_assignments(cosines: torch.Tensor, epsilon: float) -> torch.Tensor:
    weights = (cosines / epsilon).exp()
    for _ in range(3):
        weights = weights / weights.sum(0) * len(weights) / NUM_PROTOTYPES
        weights = weights / weights.sum(1)[:, None]
    return weights


def slow_loss(objective: SwAV, batch: Batch, queues: list[torch.Tensor]) -> torch.Tensor:
    """Equations 1, 2 and 6: one pair of views after the other. The encoder's own passes are test_crops.py's."""
    by_size = [torch.cat(batch.views[:2]), torch.cat(batch.views[2:])]
    rows = objective.head(torch.cat([features(objective.encoder, views) for views in by_size])).chunk(4)
    units = [row / row.norm(dim=1, keepdim=True) for row in rows]
    prototypes = objective.prototypes.weight / objective.prototypes.weight.norm(dim=1, keepdim=True)
    losses = []
    for large in range(2):
        together = torch.cat([units[large], *queues[large : large + 1]]).detach() @ prototypes.detach().T
        assigned = slow_assignments(together, objective.config.epsilon)
        for view in range(4):
            if view == large:
                continue
            for sample in range(COUNT):
                logits = prototypes @ units[view][sample] / objective.config.temperature
                losses.append(-(assigned[sample] * (logits - logits.exp().sum().log())).sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("queue_size", [0, 12])
def test_loss_and_gradients_equal_the_slow_reference(encoder, queue_size):
    objective = make_swav(encoder, queue_size=queue_size, frozen=0.0)
    for step in range(2):  # fills the queue
        objective(make_batch(objective, seed=step))
        objective.after_step(0.5)
    batch, queues = make_batch(objective, seed=7), [queue.keys.clone() for queue in objective.queues]
    fast, slow = objective(batch)["loss"], slow_loss(objective, batch, queues)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-10)
    parameters = list(objective.parameters())
    for ours, theirs in zip(torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10)
    assert not queues or slow.item() != pytest.approx(slow_loss(objective, batch, []).item(), rel=1e-4)


def test_the_queue_holds_both_large_views_and_waits_for_its_time():
    objective = make_swav(queue_size=2 * COUNT, queue_from=0.5, frozen=0.0)
    batch = make_batch(objective)
    alone = objective(batch)["loss"].item()
    objective.after_step(0.6)  # its time has come, but it is half full
    rows = objective.head(
        torch.cat([features(objective.encoder, torch.cat(v)) for v in (batch.views[:2], batch.views[2:])])
    )
    for queue, view in zip(objective.queues, rows.chunk(4), strict=False):
        assert torch.allclose(queue.keys[:COUNT], view / view.norm(dim=1, keepdim=True))
        assert torch.equal(queue.ids[:COUNT], batch.ids)
    assert objective(batch)["loss"].item() == alone
    objective.after_step(0.4)  # full, but it is early
    assert objective(batch)["loss"].item() == alone
    objective.after_skip()
    objective.after_step(0.5)
    with torch.no_grad():
        assert (
            objective(make_batch(objective, seed=3))["loss"]
            != make_swav(frozen=0.0)(make_batch(objective, seed=3))["loss"]
        )
    before = [queue.keys.clone() for queue in objective.queues]
    objective.after_step(0.6)  # a look left nothing behind
    assert all(torch.equal(queue.keys, old) for queue, old in zip(objective.queues, before, strict=True))


def test_micro_batches_equal_one_batch():
    """Assignments are balanced over all micro-batches of a step, with the queue."""
    objective = make_swav("test_resnet", queue_size=COUNT, frozen=0.0)
    objective.eval()  # in training, batch norm's statistics are a micro-batch's
    objective(make_batch(objective))
    objective.after_step(0.5)
    whole = objective(make_batch(objective, seed=1))["loss"]
    expected = torch.autograd.grad(whole, list(objective.parameters()))
    parts = [(make_batch(objective, seed=1, start=start, count=2), 0) for start in (0, 2, 4)]
    alone = World(rank=0, size=1, device=torch.device("cpu"))
    engine = make_engine(
        "ddp", objective, alone, lambda module: torch.optim.SGD(module.parameters(), lr=0.0), Settings()
    )
    losses = [float(scalars["loss"]) for scalars in take_passes(engine, parts)]
    assert losses == pytest.approx([whole.item()] * 3, rel=1e-12)
    for parameter, gradient in zip(objective.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-9, atol=1e-11)


def test_prototypes_stay_for_a_while():
    objective = make_swav(frozen=0.1)
    for progress, moves in ((0.0, False), (0.05, False), (0.1, True)):
        objective.after_step(progress)
        objective.zero_grad()
        objective(make_batch(objective))["loss"].backward()
        assert (objective.prototypes.weight.grad.abs().sum() > 0) == moves
        assert all(parameter.grad is not None for parameter in objective.parameters())


def test_one_prototype_for_all_is_no_way_out():
    """Where every view of every image looks the same, the loss is that of knowing nothing."""
    objective = make_swav(frozen=0.0)
    batch = make_batch(objective)
    batch.views = [view[:1].expand_as(view) for view in (batch.views[0], batch.views[0], *batch.views[2:])]
    scalars = objective.eval()(batch)
    assert scalars["loss"] > math.log(NUM_PROTOTYPES) - 1e-6
    assert scalars["hardness"].item() == pytest.approx(1 / NUM_PROTOTYPES)
    assert scalars["agreement"] == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("frozen", 1.5), ("queue_from", -0.1), ("temperature", 0.0), ("epsilon", 0.01), ("num_rounds", 0)],
)
def test_wrong_numbers_name_their_field(field, value):
    with pytest.raises(UserError, match=rf"objective\.{field} {value}"):
        SwAV.Config(**{field: value})


def test_a_queue_smaller_than_the_batch_is_an_error_at_start():
    with pytest.raises(UserError, match=r"objective\.queue_size 100: .*data\.batch_size 256"):
        SwAV.Config(queue_size=100).check_batch(256)
    SwAV.Config().check_batch(256)
