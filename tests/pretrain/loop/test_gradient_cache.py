"""Cached gradients against the whole batch in one graph, in float64, through the real engine."""

import pytest
import torch
from step_passes import take_passes
from timm.layers import DropPath
from torch import Tensor, nn

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.families.contrastive_objective import Contrastive
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.simclr import SimCLR
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer

BATCH = 64
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def make_simclr(encoder: str = "test_vit", drop_path: float = 0.0) -> SimCLR:
    torch.manual_seed(0)
    patch_size = 4 if encoder == "test_vit" else None
    config = EncoderConfig(name=encoder, image_size=16, patch_size=patch_size, drop_path=drop_path)
    return SimCLR.Config(hidden_dim=16, out_dim=8).build(make_encoder(config), 16).double()


def make_parts(count: int, parts: int) -> list[tuple[Batch, int]]:
    """The same ``count`` samples in so many micro-batches, each with its seed."""
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(count, 3, 16, 16, generator=generator, dtype=torch.float64)
    second = first + torch.randn(count, 3, 16, 16, generator=generator, dtype=torch.float64)
    ids = torch.arange(count)
    return [
        (Batch(views=[x, y], ids=own, epochs=torch.zeros_like(own), labels=own, seed=0), 100 + number)
        for number, (x, y, own) in enumerate(
            zip(first.chunk(parts), second.chunk(parts), ids.chunk(parts), strict=True)
        )
    ]


def engine_gradients(
    objective: Contrastive, parts: list[tuple[Batch, int]], world: World = ALONE
) -> tuple[list[float], dict[str, Tensor]]:
    engine = make_engine(
        "ddp",
        objective,
        world,
        lambda module: make_optimizer(module, OptimConfig()),
        Settings(accumulate=len(parts), clip=None, precision="fp32"),
    )
    losses = [float(scalars["loss"]) for scalars in take_passes(engine, parts)]
    return losses, {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


def slow_gradients(objective: Contrastive, parts: list[tuple[Batch, int]]) -> tuple[float, dict[str, Tensor]]:
    """One graph through all micro-batches: what memory does not allow."""
    rows: dict[str, list[Tensor]] = {}
    for batch, seed in parts:
        torch.manual_seed(seed)
        for name, value in {**objective.embed(batch), **objective.targets(batch)}.items():
            rows.setdefault(name, []).append(value)
    loss = objective.compare({name: torch.cat(values) for name, values in rows.items()})["loss"]
    names, parameters = zip(*objective.named_parameters(), strict=True)
    return float(loss.detach()), dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= 1e-10, name
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_micro_batches_give_the_gradient_of_the_whole_batch(parts):
    """1 x 64, 2 x 32 and 4 x 16 are one gradient; batch norm of the head in evaluation mode, out of the way."""
    losses, found = engine_gradients(make_simclr().eval(), make_parts(BATCH, parts))
    expected_loss, expected = slow_gradients(make_simclr().eval(), make_parts(BATCH, 1))
    assert losses == pytest.approx([expected_loss] * parts, rel=1e-12)
    assert_same(found, expected)


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
def test_batch_norm_sees_a_micro_batch_and_notes_it_once(encoder):
    """Statistics of each micro-batch in both passes; running ones as if there were the second pass only."""
    cached, plain = make_simclr(encoder).train(), make_simclr(encoder).train()
    losses, found = engine_gradients(cached, make_parts(32, 4))
    expected_loss, expected = slow_gradients(plain, make_parts(32, 4))
    assert losses == pytest.approx([expected_loss] * 4, rel=1e-10)
    assert_same(found, expected)
    moved = 0
    for (name, buffer), (_, other) in zip(cached.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.allclose(buffer, other, rtol=1e-12, atol=1e-12), name
        moved += name.endswith("num_batches_tracked") and int(buffer) == 4
    assert moved == sum(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in cached.modules())


def test_both_passes_drop_the_same_paths():
    objective = make_simclr(drop_path=0.5).train()
    assert any(isinstance(module, DropPath) and module.drop_prob for module in objective.modules())
    losses, found = engine_gradients(objective, make_parts(32, 4))
    expected_loss, expected = slow_gradients(make_simclr(drop_path=0.5).train(), make_parts(32, 4))
    assert losses[0] == pytest.approx(expected_loss, rel=1e-10)
    assert_same(found, expected)
    other_seeds = [(batch, seed + 50) for batch, seed in make_parts(32, 4)]
    other_loss, _ = slow_gradients(make_simclr(drop_path=0.5).train(), other_seeds)
    assert abs(other_loss - expected_loss) > 1e-4


def rank_gradients(world: World) -> list[tuple[list[float], dict[str, Tensor]]]:
    """This rank's micro-batches of 16 out of 4, and its half of the batch at once."""
    results = []
    for parts in (2, 1):
        own = make_parts(BATCH, parts * world.size)[world.rank :: world.size]
        results.append(engine_gradients(make_simclr().eval(), own, world))
    return results


def test_two_ranks_are_one_process(on_ranks):
    """2 ranks x 2 micro-batches x 16, and 2 ranks x 32, have the gradient of 1 x 64, no factor of 2 anywhere."""
    expected_loss, expected = slow_gradients(make_simclr().eval(), make_parts(BATCH, 1))
    ranks = on_ranks(rank_gradients, 2)
    for number in range(2):
        own = [rank[number] for rank in ranks]
        assert sum(losses[0] for losses, _ in own) / 2 == pytest.approx(expected_loss, rel=1e-12)
        assert own[0][0][0] != own[1][0][0]
        for _, found in own:
            assert_same(found, expected)
