"""MoCo v1 and v2 against a slow, obvious reference in float64, written query by query from the papers."""

import math

import pytest
import torch
from step_passes import take_passes

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.moco import MoCo
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

SIZE, QUEUE, BATCH, OUT = 16, 48, 16, 8
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def make_moco(encoder: str = "test_vit", **changes) -> MoCo:
    torch.manual_seed(0)
    config = EncoderConfig(name=encoder, image_size=SIZE, patch_size=4 if encoder == "test_vit" else None)
    settings = {"out_dim": OUT, "queue_size": QUEUE, "momentum": 0.9} | changes
    return MoCo.Config(**settings).build(make_encoder(config), SIZE).double()


def make_batch(step: int = 0, ids: torch.Tensor | None = None) -> Batch:
    generator = torch.Generator().manual_seed(step)
    views = [torch.randn(BATCH, 3, SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(2)]
    ids = torch.arange(BATCH) + BATCH * step if ids is None else ids
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=torch.zeros_like(ids), seed=0)


def micro_batches(batch: Batch, count: int) -> list[tuple[Batch, int]]:
    views, ids = [view.chunk(count) for view in batch.views], batch.ids.chunk(count)
    return [
        (Batch(views=[view[i] for view in views], ids=ids[i], epochs=ids[i], labels=ids[i], seed=0), i)
        for i in range(count)
    ]


def slow_head(features, head):
    """Linear layers with ReLU between them, by hand."""
    linear = [layer for layer in head if isinstance(layer, torch.nn.Linear)]
    for number, layer in enumerate(linear):
        features = features @ layer.weight.T + layer.bias
        features = features.clamp(min=0) if number < len(linear) - 1 else features
    return features


def slow_loss(moco: MoCo, batch: Batch) -> torch.Tensor:
    """Equation 1, query by query and negative by negative; an older key of the same sample is skipped."""
    losses = []
    queries = slow_head(moco.encoder(batch.views[0]), moco.head)
    keys = slow_head(moco.teacher_encoder(batch.views[1]), moco.teacher_head).detach()
    for query, key, number in zip(queries, keys, batch.ids, strict=True):
        query, key = query / query.norm(), key / key.norm()
        positive = torch.exp(query @ key / moco.config.temperature)
        total = positive
        for negative, other in zip(moco.queue.keys, moco.queue.ids, strict=True):
            if other != number:
                total = total + torch.exp(query @ negative / moco.config.temperature)
        losses.append(-torch.log(positive / total))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
@pytest.mark.parametrize(("head", "temperature"), [("linear", 0.07), ("mlp", 0.2)])
def test_loss_and_gradients_equal_the_slow_reference(encoder, head, temperature):
    moco = make_moco(encoder, head=head, temperature=temperature)
    for step in (5, 6):  # a queue of two batches and random keys
        moco(make_batch(step))["loss"].backward()
        moco.after_step(0.5)
    moco.zero_grad()
    with torch.no_grad():  # teacher and student differ
        for parameter in moco.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    batch = make_batch(7, ids=torch.arange(80, 80 + BATCH))  # half of its samples are in the queue already
    assert torch.isin(batch.ids, moco.queue.ids).sum() == BATCH
    fast = moco(batch)["loss"]
    names, parameters = zip(*((n, p) for n, p in moco.named_parameters() if p.requires_grad), strict=True)
    fast_gradients = torch.autograd.grad(fast, parameters)
    slow = slow_loss(moco, batch)
    slow_gradients = torch.autograd.grad(slow, parameters)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    for name, a, b in zip(names, fast_gradients, slow_gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10), name


def test_only_the_query_gets_a_gradient():
    moco, batch = make_moco(), make_batch()
    for view in batch.views:
        view.requires_grad_()
    moco(batch)["loss"].backward()
    assert batch.views[0].grad.abs().sum() > 0
    assert batch.views[1].grad is None
    for name, parameter in moco.named_parameters():
        assert (parameter.grad is None) == name.startswith("teacher_"), name


def test_the_current_keys_are_not_their_own_negatives():
    """A queue of all samples' present keys raises the loss; a step sees its keys there only when it is over."""
    moco, batch = make_moco(queue_size=BATCH), make_batch()
    before = moco.queue.keys.clone()
    loss = moco(batch)["loss"]
    assert torch.equal(moco.queue.keys, before)
    moco.after_step(0.1)
    keys = moco.keys(batch.views[1])  # the teacher has followed a student that is still equal to it
    assert torch.allclose(moco.queue.keys, keys / keys.norm(dim=1, keepdim=True), atol=1e-12)
    assert torch.equal(moco.queue.ids, batch.ids)
    assert moco(batch)["loss"] != loss
    moco.queue.ids.fill_(-1)  # as if the queue did not know whose keys they are
    with torch.no_grad():
        assert slow_loss(moco, batch) > math.log(2)  # each key is its own negative
        assert slow_loss(moco, batch).item() == pytest.approx(moco(batch)["loss"].item(), rel=1e-12)


def test_a_skipped_step_and_a_look_enqueue_nothing():
    moco = make_moco()
    expected = {name: value.clone() for name, value in moco.queue.state_dict().items()}
    moco(make_batch(1))["loss"].backward()
    moco.after_skip()
    with torch.no_grad():
        moco(make_batch(2))
    moco.queue.push()
    for name, value in moco.queue.state_dict().items():
        assert torch.equal(value, expected[name]), name


def train(accumulate: int, num_steps: int = 4) -> dict[str, torch.Tensor]:
    """The tensors of a real engine after some steps on one process; the queue wraps around."""
    engine = make_engine(
        "ddp",
        make_moco(),
        ALONE,
        lambda module: make_optimizer(module, OptimConfig(name="sgd")),
        Settings(accumulate=accumulate, clip=None, precision="fp32"),
    )
    for step in range(num_steps):
        take_passes(engine, micro_batches(make_batch(step), accumulate))
        assert engine.step(0.05)[1]
        engine.objective.after_step((step + 1) / num_steps)
    return engine.save_tensors()


def test_accumulation_is_exact():
    """All micro-batches of a step see the same queue; the teacher and the queue move once per step."""
    whole, parts = train(1), train(4)
    for name, tensor in whole.items():
        assert torch.allclose(parts[name].double(), tensor.double(), rtol=1e-10, atol=1e-12), name
    assert torch.equal(whole["model.queue.ids"][:BATCH], torch.arange(BATCH) + 3 * BATCH)


def test_the_teacher_follows_all_that_is_trained():
    """Closed form over three steps; positions of the student before the last update count too."""
    moco, momentum = make_moco(), 0.9
    names = {"teacher_encoder": moco.encoder, "teacher_head": moco.head}
    expected = {name: [p.detach().clone() for p in module.parameters()] for name, module in names.items()}
    for step in range(3):
        with torch.no_grad():
            for module in names.values():
                for parameter in module.parameters():
                    parameter += torch.randn_like(parameter)
        moco.after_step((step + 1) / 3)
        for name, module in names.items():
            pairs = zip(expected[name], module.parameters(), strict=True)
            expected[name] = [momentum * old + (1 - momentum) * new.detach() for old, new in pairs]
    for name, values in expected.items():
        for parameter, value in zip(getattr(moco, name).parameters(), values, strict=True):
            assert torch.allclose(parameter, value, rtol=1e-12, atol=1e-13), name


def rank_keys(world: World) -> torch.Tensor:
    moco = make_moco("test_resnet")
    engine = make_engine(
        "ddp",
        moco,
        world,
        lambda module: make_optimizer(module, OptimConfig(name="sgd")),
        Settings(accumulate=1, clip=None, precision="fp32"),
    )
    (batch, _) = micro_batches(make_batch(), world.size)[world.rank]
    take_passes(engine, [(batch, 0)])
    engine.objective.after_step(0.0)
    return moco.queue.keys[:BATCH]


def test_batch_norm_leaves_no_trace_of_the_rank(on_ranks):
    """Keys from two ranks are those of one process with the whole batch, in its order: nothing to shuffle."""
    expected = rank_keys(ALONE)
    for keys in on_ranks(rank_keys, 2):
        assert torch.allclose(keys, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"temperature": 0.0}, "temperature"), ({"momentum": 1.1}, "momentum"), ({"queue_size": 0}, "queue_size")],
)
def test_wrong_numbers_name_their_field(changes, field):
    with pytest.raises(UserError, match=f"objective.{field} "):
        MoCo.Config(**changes)


@pytest.mark.parametrize(("batch_size", "nearest"), [(100, 4100), (3000, 3000), (10000, 10000)])
def test_a_queue_that_the_batch_does_not_divide_is_an_error_at_start(batch_size, nearest):
    config = MoCo.Config(queue_size=4096)
    config.check_batch(512)
    with pytest.raises(UserError) as error:
        config.check_batch(batch_size)
    line = str(error.value)
    assert "\n" not in line
    assert all(text in line for text in ("objective.queue_size 4096", f"data.batch_size {batch_size}", str(nearest)))


@pytest.mark.parametrize(
    ("recipe", "head", "temperature", "decay_at"),
    [("moco_v1_r50_in1k", "linear", 0.07, (0.6, 0.8)), ("moco_v2_r50_in1k", "mlp", 0.2, ())],
)
def test_moco_on_imagenet_has_the_papers_numbers(recipe, head, temperature, decay_at):
    """He et al. 2019, section 3.3 (rate, decay, 200 epochs, a tenth at 120 and 160); Chen et al. 2020, section 3."""
    run = make_run(recipe)
    optim, objective = run.optim, run.objective
    assert (optim.name, optim.momentum, optim.weight_decay, optim.decay_vectors) == ("sgd", 0.9, 1e-4, True)
    assert (run.data.batch_size, optim.warmup_steps, optim.decay_at) == (256, 0, decay_at)
    assert effective_rate(optim.lr, run.data.batch_size) == pytest.approx(0.03)
    assert run.steps == pytest.approx(200 * 1_281_167 / 256, abs=1)
    assert (objective.head, objective.out_dim, objective.temperature) == (head, 128, temperature)
    assert (objective.queue_size, objective.momentum) == (65536, 0.999)
    view = objective.view
    assert (view.scale, view.grayscale, view.flip, view.solarize) == ((0.2, 1.0), 0.2, 0.5, 0)
    if head == "linear":
        assert (view.jitter, view.jitter_probability, view.blur) == ((0.4, 0.4, 0.4, 0.4), 1.0, 0)
    else:
        assert (view.jitter, view.jitter_probability, view.blur) == ((0.4, 0.4, 0.4, 0.1), 0.8, 0.5)
