"""What every objective promises, tested on each file of ``objectives/`` through its ``*_tiny`` recipe."""

import pkgutil
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from step_passes import take_passes

import eyespot.pretrain.objectives
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.engine import Engine, Settings, engine_names, make_engine
from eyespot.pretrain.networks.eval_mode import at_rest
from eyespot.pretrain.networks.fixed.fixed_teacher import fixed_teacher_of
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipe_lookup import make_run

sys.path.insert(0, str(Path(__file__).parent))
from engine_states import (
    COUNT,
    ENGINES,
    make_batch,
    make_images,
    make_objective,
    make_single_engine,
    own_batches,
    refresh,
    rows_of,
    whole_state,
)

METHODS = [info.name for info in pkgutil.iter_modules(eyespot.pretrain.objectives.__path__)]
ONE = process_group.World(rank=0, size=1, device=torch.device("cpu"))
THOROUGH = "moco"
"""This method has all that an engine may meet (encoder, head, teachers, a queue, running statistics, and an average of
weights), so it meets all of them; the others meet FSDP or one of DeepSpeed's stages, and in the thorough tests the
other one."""
TURNS = ("fsdp", "deepspeed 2")
LEARNED = 0.9
"""A batch is learned once its loss is this share of the first."""
RESAMPLED = ("pos_embed", "pos_embed.momentum_buffer")
"""timm brings positions to views of another size in float32, whatever their own type."""

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("method", METHODS)]


def engines_of(method: str) -> tuple[str, ...]:
    return ENGINES if method == THOROUGH else ("ddp", TURNS[turn(method)])


def turn(method: str) -> int:
    """The same for a method whichever others there are."""
    return zlib.crc32(method.encode()) % len(TURNS)


def lessons_of(method: str) -> list[tuple[str, str]]:
    """Engines and precisions that a method learns a batch on: in fp32 every engine is ddp (see below)."""
    return [(name, "bf16") for name in (ENGINES if method == THOROUGH else ("ddp",))]


def test_forward_gives_finite_scalars_and_every_parameter_a_gradient(method):
    objective = make_objective(method)
    scalars = objective(make_batch(objective))
    assert all(value.ndim == 0 and value.isfinite() for value in scalars.values())
    scalars["loss"].backward()
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} never enters the loss: DDP would wait for it"
            assert parameter.grad.isfinite().all(), name
        else:
            assert parameter.grad is None, f"{name} is a teacher's or frozen, and got a gradient"


def test_the_loss_is_a_function_of_batch_and_torch_seed(method):
    objective = make_objective(method)
    losses = []
    for _ in range(2):
        torch.manual_seed(1)
        losses.append(objective(make_batch(objective))["loss"].item())
    assert losses[0] == losses[1]
    assert losses[0] != objective(make_batch(objective, seed=5))["loss"].item()


TELLS_SAMPLES = {
    *("mae", "video_mae", "simmim", "data2vec", "ijepa", "denoising", "byol", "rotation", "relative_patch"),
    *("jigsaw", "exemplar", "classify", "distill"),
}
"""Methods whose loss is a mean over samples, and which say of each what it is (docs/mixtures.md names them)."""


def test_losses_of_samples_are_of_that_mean_and_change_no_bit(method):
    objective = make_objective(method)
    batch, losses = make_batch(objective), []
    for objective.notes_losses in (False, True):
        assert objective.sample_losses is None
        torch.manual_seed(3)
        losses.append(objective(batch)["loss"])
    told = objective.sample_losses
    assert (told is not None) == (method in TELLS_SAMPLES)
    assert losses[0].item() == losses[1].item()
    if told is not None:
        assert told.shape == (len(batch),) and not told.requires_grad and told.std() > 0
        assert told.mean().item() == pytest.approx(losses[1].item(), rel=1e-5)
        objective.sample_losses = None
        with torch.no_grad():
            objective(batch)
        assert objective.sample_losses is None  # somebody's look


def test_the_input_is_not_changed(method):
    objective = make_objective(method)
    batch, before = make_batch(objective), make_batch(objective)
    objective(batch)["loss"].backward()
    assert all(torch.equal(view, old) for view, old in zip(batch.views, before.views, strict=True))


def test_views_in_bf16_change_no_bit_where_only_encoders_read_them(method):
    """Autocast rounds to bf16 what an encoder reads, so a GPU's loader may do it before. All else needs float32."""
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        objective = make_objective(method)
        batch = make_batch(objective)
        of_images = [view.dtype == "float" for view in objective.views().views]
        batch.views = [cast(view, dtype) if so else view for view, so in zip(batch.views, of_images, strict=True)]
        if not objective.only_encodes and dtype == torch.bfloat16:
            return
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            scalars = objective(batch)
        scalars["loss"].backward()
        results.append([*scalars.values(), *(p.grad for p in objective.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) > 1
    assert all(map(torch.equal, *results))


def test_encode_gives_a_row_per_image(method):
    objective = make_objective(method).eval()
    images = make_images(objective)
    with torch.no_grad():
        features = objective.encode(images)
        assert features.shape[0] == COUNT
        assert torch.allclose(objective.encode(images[:2]), features[:2], atol=1e-5)


def test_state_survives_a_round_trip(method):
    objective, other = make_objective(method), make_objective(method)
    fixed = fixed_teacher_of(objective)  # of which no checkpoint holds anything
    spared = set() if fixed is None else set(fixed.parameters())
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.0 if parameter in spared else 0.01
    other.load_state_dict(objective.state_dict())
    batch = make_batch(objective)
    torch.manual_seed(2)
    expected = objective(batch)["loss"]
    torch.manual_seed(2)
    assert torch.equal(other(batch)["loss"], expected)


def test_a_picture_is_a_grid_of_images_or_nothing(method):
    objective = make_objective(method)
    picture = objective.picture(make_batch(objective))
    assert len(picture if picture is not None else ()) == len(objective.picture_rows) or not objective.picture_rows
    if picture is not None:
        assert picture.ndim == 5
        assert picture.shape[2] == 3
        assert picture.isfinite().all()
        assert not picture.requires_grad


def test_the_order_of_a_batch_does_not_matter(method):
    objective = make_objective(method).double()
    batch = doubled(make_batch(objective))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    objective.eval()  # drop path draws by place in the batch
    expected = objective(batch)["loss"]
    objective.after_skip()
    assert objective(rows_of(batch, order))["loss"].item() == pytest.approx(expected.item(), rel=1e-9)


def test_going_on_from_saved_tensors_is_exact(method):
    engine, other = make_double_engine(method), make_double_engine(method)
    batches = [doubled(make_batch(engine.objective, seed=seed)) for seed in range(4)]
    train(engine, batches[:2], first=0)
    begun = zip(engine.objective.encoder.parameters(), other.objective.encoder.parameters(), strict=True)
    assert not all(torch.equal(now, then) for now, then in begun), "the encoder learns nothing"
    with torch.no_grad():
        saved = engine.save_tensors()
        for name, tensor in other.save_tensors().items():
            tensor.copy_(saved[name])
    assert train(engine, batches[2:], first=2) == train(other, batches[2:], first=2)
    ours, theirs = engine.save_tensors(), other.save_tensors()
    assert [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])] == []


@pytest.fixture(scope="module")
def chosen(request) -> list[str]:
    """The methods that are asked about: ``-k`` may leave some out."""
    asked = {item.callspec.params["method"] for item in request.session.items if item.path == request.path}
    return [method for method in METHODS if method in asked]


@pytest.fixture(scope="module")
def two_ranks(chosen, on_ranks) -> list[dict]:
    return on_ranks(train_share, 2, chosen)


def train_share(world: process_group.World, methods: list[str]) -> dict:
    """For each method the losses and the state after three steps, this rank having seen its share of each batch."""
    results = {}
    for method in methods:
        engine = make_double_engine(method, world)
        losses = train(engine, own_batches(engine, world, doubled), first=0)
        results[method] = losses, {name: tensor.numpy() for name, tensor in engine.save_tensors().items()}
    return results


def test_two_ranks_equal_one(method, two_ranks):
    engine = make_double_engine(method)
    losses = train(engine, own_batches(engine, ONE, doubled), first=0)
    (first, state), (second, same) = (answers[method] for answers in two_ranks)
    assert [(one + other) / 2 for one, other in zip(first, second, strict=True)] == pytest.approx(losses, rel=1e-9)
    for name, tensor in engine.save_tensors().items():
        assert np.array_equal(state[name], same[name]), f"{name} differs between the ranks"
        rounding = 1e-7 if name.endswith(RESAMPLED) else 1e-9
        assert np.allclose(tensor.numpy(), state[name], rtol=1e-7, atol=rounding), name


@pytest.fixture(scope="module")
def every_engine(chosen, on_ranks) -> list[dict]:
    return on_ranks(train_on_engines, 2, {method: engines_of(method) for method in chosen})


@pytest.fixture(scope="module")
def other_engines(chosen, on_ranks) -> list[dict]:
    others = {method: ("ddp", TURNS[1 - turn(method)]) for method in chosen}
    return on_ranks(train_on_engines, 2, others)


def train_on_engines(world: process_group.World, methods: dict[str, tuple[str, ...]]) -> dict:
    """For each engine and method, in single precision: losses, the whole state, and features of a batch."""
    results = {}
    for method, engines in methods.items():
        for engine_name in engines:
            engine = make_single_engine(method, engine_name, world)
            losses = train(engine, own_batches(engine, world), first=0)
            state = whole_state(engine)
            with at_rest(engine.objective):
                features = engine.objective.encode(make_images(engine.objective)).numpy()
            engine.close()
            results[engine_name, method] = losses, state, features
    return results


def test_every_engine_is_ddp(method, every_engine):
    """Losses, weights, optimiser, teacher and queue after three steps on two ranks, and what monitors are given."""
    assert_is_ddp(method, engines_of(method)[1:], every_engine)


@pytest.mark.thorough
def test_the_other_engine_is_ddp(method, other_engines):
    assert_is_ddp(method, (TURNS[1 - turn(method)],), other_engines)


def assert_is_ddp(method: str, engines: tuple[str, ...], ranks: list[dict]) -> None:
    for engine_name in engines:
        for rank in ranks:
            (losses, state, features), (expected, expected_state, expected_features) = (
                rank[name, method] for name in (engine_name, "ddp")
            )
            assert losses == pytest.approx(expected, rel=1e-5), engine_name
            assert np.allclose(features, expected_features, rtol=1e-4, atol=1e-5), engine_name
            assert state.keys() == expected_state.keys(), engine_name
            for name, tensor in expected_state.items():
                assert state[name].shape == tensor.shape and state[name].dtype == tensor.dtype, (engine_name, name)
                assert np.allclose(state[name], tensor, rtol=1e-4, atol=1e-6), (engine_name, name)


def doubled(batch: Batch) -> Batch:
    return replace(batch, views=[cast(view, torch.float64) for view in batch.views])


def cast(view: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Images in another precision; masks and tokens stay what they are."""
    return view.to(dtype) if view.is_floating_point() else view


def make_double_engine(method: str, world: process_group.World = ONE) -> Engine:
    """Plain gradient descent in float64: it does not blow up the rounding of a gradient that is zero in truth."""
    return make_engine(
        "ddp",
        make_objective(method).double(),
        world,
        lambda module: torch.optim.SGD([p for p in module.parameters() if p.requires_grad], momentum=0.9),
        Settings(accumulate=1, clip=None, precision="fp32"),
    )


def train(engine: Engine, batches: list[Batch], first: int) -> list[float]:
    """The losses of a step per batch."""
    losses = []
    if first == 0:
        refresh(engine.objective)
    for step, batch in enumerate(batches, first):
        losses.append(float(take_passes(engine, [(batch, step)])[0]["loss"]))
        assert engine.step(0.05)[1]
        engine.objective.finish_step(step + 1, 10)
    return losses


@pytest.fixture(scope="module")
def lessons(chosen, on_ranks) -> dict:
    return on_ranks(learn_one_batch, 1, [(method, *lesson) for method in chosen for lesson in lessons_of(method)])[0]


@pytest.fixture(scope="module")
def lessons_in_fp32(chosen, on_ranks) -> dict:
    return on_ranks(learn_one_batch, 1, [(method, "ddp", "fp32") for method in chosen])[0]


def learn_one_batch(world: process_group.World, lessons: list[tuple[str, str, str]]) -> dict:
    """In a process of its own, because DeepSpeed changes torch for the whole process."""
    results = {}
    for method, engine_name, precision in lessons:
        optim = make_run(f"{method}_tiny").optim
        if engine_name.startswith("deepspeed") and optim.name == "lars":  # refused there
            optim = OptimConfig(lr=2e-3)
        engine = make_single_engine(method, engine_name, world, optim=optim, clip=1.0, precision=precision)
        results[method, engine_name, precision] = learn(engine)
        engine.close()
    return results


def learn(engine: Engine) -> list[float]:
    """The losses, until the batch is learned or 30 steps are done."""
    batch, losses = make_batch(engine.objective), []
    refresh(engine.objective)
    for step in range(30):
        losses.append(float(take_passes(engine, [(batch, step)])[0]["loss"]))
        norm, applied = engine.step(2e-3)
        assert applied
        assert norm > 0 or losses[-1] < 1e-6  # all is learned: single precision has no smaller loss
        engine.objective.finish_step(step + 1, 30)
        if losses[-1] < LEARNED * losses[0]:
            break
    return losses


def test_the_engines_tested_are_all(method):
    assert {name.split()[0] for name in ENGINES} == set(engine_names())


def test_it_learns_one_batch(method, lessons):
    for engine_name, precision in lessons_of(method):
        losses = lessons[method, engine_name, precision]
        assert losses[-1] < LEARNED * losses[0], (engine_name, precision)


@pytest.mark.thorough
def test_it_learns_one_batch_in_fp32(method, lessons_in_fp32):
    losses = lessons_in_fp32[method, "ddp", "fp32"]
    assert losses[-1] < LEARNED * losses[0]
