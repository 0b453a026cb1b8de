"""Engines are found by name, and an objective is made ready for any of them in one place."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import eyespot.pretrain.engines
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World, stop
from eyespot.pretrain.engine import Engine, MicroBatch, Settings, compile_objective, engine_names, make_engine
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.networks.repeated_blocks import compiled_pieces, repeated_blocks
from eyespot.pretrain.networks.sync_batchnorm import SynchronizedBatchNorm1d
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.recipe_lookup import make_run

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


class Plain(Objective):
    """An encoder with dropout, so that the seed shows."""

    def __init__(self, encoder: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = encoder or nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))

    def views(self):
        raise AssertionError("not asked for here")

    def forward(self, batch, factor: float = 1.0):
        return {"loss": factor * self.encoder(batch.views[0]).pow(4).mean(), "autocast": torch.tensor(_bf16())}


def _bf16() -> bool:
    return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def make_part(**changes) -> MicroBatch:
    ids = torch.arange(6)
    images = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    return MicroBatch(batch=Batch(views=[images], ids=ids, epochs=ids, labels=ids, seed=0), **changes)


def make(name: str = "ddp", objective: Objective | None = None, world: World = ALONE, **settings) -> Engine:
    sgd = lambda module: torch.optim.SGD(module.parameters(), lr=0.1)  # noqa: E731
    return make_engine(name, objective or Plain(), world, sgd, Settings(**settings))


def test_the_engines_are_the_files_that_make_one():
    folder = Path(eyespot.pretrain.engines.__file__).parent
    makers = {path.stem for path in folder.glob("*.py") if "\nmake = " in path.read_text()}
    assert set(engine_names()) == makers


def test_an_unknown_engine_is_named_beside_those_there_are():
    with pytest.raises(UserError, match=r"engine 'horovod': not one of ddp, deepspeed, fsdp"):
        make("horovod")


def test_nothing_to_compile_is_said():
    class Layer(Plain):
        def __init__(self) -> None:
            super().__init__(nn.Linear(12, 4))

    with pytest.raises(UserError, match="compile True: this objective has no block and no head"):
        make(objective=Layer(), compile=True)


def test_batch_norm_is_of_all_ranks_where_there_are_several():
    alone = Plain()
    make(objective=alone)
    assert type(alone.encoder[3]) is nn.BatchNorm1d


def check_batch_norm_is_synchronized(world: World) -> str:
    objective = Plain()
    make(objective=objective, world=world)
    return type(objective.encoder[3]).__name__


def test_batch_norm_is_exchanged_before_the_engine_wraps_it(on_ranks):
    assert set(on_ranks(check_batch_norm_is_synchronized, 2)) == {SynchronizedBatchNorm1d.__name__}


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_a_forward_pass_obeys_its_micro_batch(name):
    """Its seed decides what is dropped, what else is known reaches the objective, and precision is the run's."""
    engine = make(name, precision="bf16")
    losses = [float(engine.forward(make_part(seed=seed))["loss"].detach()) for seed in (5, 5, 6)]
    assert losses[0] == losses[1] != losses[2]
    scalars = engine.forward(make_part(seed=5, known={"factor": 2.0}))
    assert float(scalars["loss"].detach()) == 2 * losses[0]
    assert bool(scalars["autocast"])
    with engine.autocast():
        assert _bf16()
    assert not _bf16()
    engine.close()
    stop()  # the group of one that fsdp makes would be met by the tests that follow


def convnet_simclr() -> Objective:
    """One block a stage, so no block repeats; and a head with batch norms."""
    torch.manual_seed(0)
    run = make_run("simclr_tiny")
    run.encoder.name = "resnet10t"
    return fresh_objective(run, torch.arange(64))


def gradient_of(objective: Objective) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(8, 3, v.size, v.size, generator=generator) for v in objective.views().views]
    ids = torch.arange(8)
    loss = objective(Batch(views=views, ids=ids, epochs=ids, labels=ids, seed=0))["loss"]
    loss.backward()
    return loss.detach(), [p.grad for p in objective.parameters() if p.grad is not None]


@pytest.mark.slow
def test_compiled_heads_stages_and_loss_are_the_same_function():
    plain, compiled = convnet_simclr(), convnet_simclr()
    assert not repeated_blocks(compiled)
    torch._dynamo.reset()
    counters.clear()
    compile_objective(compiled, backend="aot_eager")
    assert len(compiled_pieces(compiled)) == 6  # stem, four stages, head
    loss, gradients = gradient_of(compiled)
    assert counters["stats"]["unique_graphs"] >= 7  # and the loss
    assert not [reason for reason in counters["graph_break"] if "recompile_limit" in reason]
    wanted, wanted_gradients = gradient_of(plain)
    torch.testing.assert_close(loss, wanted)
    assert len(gradients) == len(wanted_gradients)
    for one, other in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    torch._dynamo.reset()


def test_more_pieces_than_torch_keeps_variants_are_all_compiled():
    """torch's own limit of 8 would leave half of a ResNet-50's sixteen blocks as they are."""

    class Many(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for width in range(1, 13))

    torch._dynamo.reset()
    counters.clear()
    objective = Many()
    compile_objective(objective, backend="aot_eager")
    for head in objective.heads:
        head(torch.ones(2, head[0].in_features))
    assert counters["stats"]["unique_graphs"] == 12
    torch._dynamo.reset()
