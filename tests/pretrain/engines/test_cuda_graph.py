"""Both passes of a step from a graph, by a recording of operators in its place (see recorded_passes.py)."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from engine_states import make_batch, make_objective, refresh
from recorded_passes import record
from stand_in_device import DEVICE, METHODS, watched
from torch import nn

from eyespot.cluster.cli import main
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import MicroBatch, Settings, make_engine
from eyespot.pretrain.engines import cuda_graph
from eyespot.pretrain.engines.ddp import DDPEngine
from eyespot.pretrain.images.mixup import MixConfig
from eyespot.pretrain.loop.step_metrics import StepRecord
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer

CPU = torch.device("cpu")
OPTIM = OptimConfig(name="sgd", weight_decay=0.1)


@pytest.fixture(autouse=True)
def captured(monkeypatch):
    """Notes captures."""
    made: list[int] = []
    monkeypatch.setattr(cuda_graph, "capture", lambda passes: made.append(1) or record(passes))
    monkeypatch.setattr(cuda_graph, "WARM_UPS", 1)
    return made


def engine_around(objective, graphed=True, device=CPU):
    world, settings = World(rank=0, size=1, device=device), Settings(cuda_graph=graphed, clip=0.5)
    return DDPEngine(objective, world, lambda module: make_optimizer(module, OPTIM), settings)


def engines_of(method):
    """Without graphs, and with them."""
    objectives = [make_objective(method) for _ in range(2)]
    for objective in objectives:
        refresh(objective)
    return [
        engine_around(objective, graphed=graphed) for objective, graphed in zip(objectives, (False, True), strict=True)
    ]


def take_steps(engine, count, *, spoiled=(), shape=None):
    """What the loop does, with other samples in each step; the scalars of each."""
    said = []
    for step in range(count):
        batch, passed = batch_of(engine.objective, step, shape), StepRecord(step)
        if step in spoiled:
            batch.views[0][0] = math.nan
        scalars = engine.forward(MicroBatch(batch=batch, seed=step))
        engine.backward(scalars["loss"] / 1)
        passed.add(batch, scalars)
        said.append({name: value.item() for name, value in scalars.items()})
        batch.views.clear()
        _, taken = engine.step(0.05, passed.finite())
        engine.objective.after_step((step + 1) / 20, taken) if taken else engine.objective.after_skip()
    return said


def batch_of(objective, step, shape=None):
    if shape is None:
        batch = make_batch(objective, seed=step)
    else:
        ids = torch.arange(shape[0])
        view = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        batch = Batch(views=[view], ids=ids, epochs=ids * 0, labels=ids % 3, seed=0)
    return replace(batch, ids=batch.ids + len(batch) * (step % 4), labels=batch.labels.roll(step))


def states_apart(one, other):
    """Names of what differs by a bit."""
    one, other = one.save_tensors(), other.save_tensors()
    return [name for name in one if not torch.equal(one[name].nan_to_num(), other[name].nan_to_num())]


@pytest.mark.parametrize("method", [each for each in METHODS if each != "dinov3"])  # that has stages, and is refused
def test_a_run_by_graph_is_the_run_without(method, captured):
    """Steps 1 and 2 are computed both ways, step 3 by the graph alone."""
    plain, graphed = engines_of(method)
    for expected, found in zip(take_steps(plain, 3), take_steps(graphed, 3), strict=True):
        assert found == pytest.approx(expected)
    assert states_apart(plain, graphed) == []
    assert captured == [1]


def test_a_step_that_is_not_finite_is_skipped_like_any_other():
    plain, graphed = engines_of("moco_v3")
    for engine in (plain, graphed):
        said = take_steps(engine, 5, spoiled=(1, 2))
        assert [math.isnan(scalars["loss"]) for scalars in said] == [False, True, True, False, False]
    assert states_apart(plain, graphed) == []


class Scaled(Objective):
    """Its loss depends on what each test wants."""

    def __init__(self, forward=None, make_encoder=lambda: nn.Linear(4, 2)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.own, self.factor, self.num_passes = make_encoder(), forward, 1.0, 0
        self.register_buffer("shift", torch.ones(()))

    def views(self):
        raise AssertionError("not asked for here")

    def forward(self, batch):
        factor = 1.0 if self.own is None else self.own(self, batch)
        return {"loss": (factor * self.encoder(batch.views[0].flatten(1)[:, :4]) + self.shift).square().mean()}

    def after_step(self, progress, taken=True):
        self.factor += 0.01 * progress
        self.shift = self.shift + 1 if progress == 0.15 else self.shift  # another tensor


def counting(objective, batch):
    objective.num_passes += 1
    return 1.0


SMALL = (6, 3, 2, 2)


def test_what_lies_elsewhere_or_has_another_shape_is_captured_anew(captured):
    plain, graphed = engine_around(Scaled(), graphed=False), engine_around(Scaled())
    for engine in (plain, graphed):
        take_steps(engine, 5, shape=SMALL)
    assert captured == [1, 1]
    for engine in (plain, graphed):
        take_steps(engine, 2, shape=(5, 3, 2, 2))
    assert len(captured) == 3
    assert states_apart(plain, graphed) == []


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda objective, batch: objective.factor**8, " of a graph: .*reads on the host"),
        (lambda objective, batch: float(batch.ids[0] + 1), " of a graph: .*reads on the host"),
        (lambda objective, batch: 1 + torch.randint(9, ()).item(), " of a graph: .*reads on the host"),
        (counting, "Scaled.num_passes changes with each pass"),
        (lambda objective, batch: batch.uniforms(str(torch.rand(())), 1), "1 numbers of .* are drawn"),
    ],
    ids=["schedule", "ids", "random", "count", "draws"],
)
def test_what_a_graph_would_not_see_stops_the_run(forward, words):
    with pytest.raises(UserError, match=f"^cuda_graph True: .*{words}.*leave it out$"):
        take_steps(engine_around(Scaled(forward)), 17, shape=SMALL)


def normed():
    """With running statistics, which a doubted step has moved by then."""
    return nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))


def test_a_small_difference_late_in_a_run_ends_the_graph_and_not_the_run(caplog, captured):
    """Step 19, the second graph's 16th, finds it: from there on all is as without a graph, that step included."""
    seen_late, seen_at_19 = (
        lambda objective, batch, since=since: 1.005 if objective.factor > since else 1.0 for since in (1.03, 1.08)
    )
    graphed, plain = engine_around(Scaled(seen_late, normed)), engine_around(Scaled(seen_at_19, normed), False)
    for engine in (graphed, plain):
        take_steps(engine, 20, shape=SMALL)
    assert captured == [1, 1] and states_apart(graphed, plain) == []
    (line,) = (record.getMessage() for record in caplog.records if record.name == "eyespot")
    assert re.search("True: loss .* after 19 steps; from here on the run goes on without", line)


@pytest.mark.parametrize(
    ("apart", "step", "resumed", "ends"),
    [
        (0.02, 8, False, True),
        (0.02, 16, False, False),
        (0.2, 16, False, True),
        (math.nan, 16, False, True),
        (0.02, 1, True, False),
        (0.2, 1, True, True),
    ],
)
def test_what_ends_a_run_depends_on_the_step_and_the_difference(apart, step, resumed, ends, monkeypatch):
    engine, compared = engine_around(Scaled()), []
    if resumed:
        engine.load_tensors(lambda tensors: None)

    def difference(found, expected):
        compared.append(found)
        return apart if len(compared) > 4 * (step.bit_length() - 1) else 0.0  # four of each comparison

    monkeypatch.setattr(cuda_graph, "_apart", difference)
    engine.objective.after_step = lambda *_: None  # nothing is captured anew
    take_steps(engine, step - 1, shape=SMALL)
    if ends:
        with pytest.raises(UserError, match=r"^cuda_graph True: loss of a graph: "):
            take_steps(engine, 1, shape=SMALL)
    else:
        assert take_steps(engine, 2, shape=SMALL) and engine._graphed is None


def test_mixed_images_are_drawn_on_the_host():
    objective = make_objective("classify")
    objective.config = replace(objective.config, mix=MixConfig(mixup=0.8))
    with pytest.raises(UserError, match="reads on the host"):
        take_steps(engine_around(objective), 2)


def test_memory_that_runs_out_is_no_users_fault(monkeypatch):
    def capture(passes):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda_graph, "capture", capture)
    with pytest.raises(torch.OutOfMemoryError):
        take_steps(engine_around(Scaled()), 1, shape=SMALL)


@pytest.mark.parametrize("method", ["mae", "moco"])
def test_what_stands_before_a_replay_waits_for_nothing(method, monkeypatch):
    """Drawn numbers and ids travel through pinned memory; on a stand-in without values nothing can be compared."""
    monkeypatch.setattr(cuda_graph, "_is_compared", lambda count: False)
    objective, steps = make_objective(method), []
    with watched():
        engine = engine_around(objective, device=DEVICE)
    for number in range(2):
        batch = make_batch(objective)
        batch = replace(batch, views=[view.to(DEVICE) for view in batch.views], labels=batch.labels.to(DEVICE))
        with watched() as waits:
            engine.forward(MicroBatch(batch=batch, seed=number))
        steps.append(waits)
    assert steps[1].found == []
    assert steps[1].operators["copy to the device"] == 1


@pytest.mark.parametrize(
    ("name", "size", "device", "settings", "words"),
    [
        ("ddp", 1, "cpu", {}, "on a CPU; leave it out"),
        ("fsdp", 1, "cuda", {}, "not with engine fsdp; take --engine ddp"),
        ("ddp", 2, "cuda", {}, "in one process, and these are 2; leave it out"),
        ("ddp", 1, "cuda", {"accumulate": 4}, "not with data.accumulate 4; leave one"),
        ("ddp", 1, "cuda", {"compile": True}, "not with compile True; leave one"),
    ],
)
def test_what_it_does_not_go_with_is_refused(name, size, device, settings, words):
    world = World(rank=0, size=size, device=torch.device(device))
    with pytest.raises(UserError, match=f"^cuda_graph True: .*{words}"):
        make_engine(
            name, Scaled(), world, lambda module: make_optimizer(module, OPTIM), Settings(cuda_graph=True, **settings)
        )


def test_a_whole_run_by_graph_writes_the_numbers_of_the_run_without(digits, tmp_path, capsys, monkeypatch):
    words = ["pretrain", "mae_tiny", "--data.shards", str(digits), "--device", "cpu", "--no-track", "--log-every", "1"]
    words += ["--steps", "6", "--save-every", "4", "--picture-every", "3", "--data.batch-size", "16"]
    assert main([*words, "--run-dir", str(tmp_path / "graphed"), "--cuda-graph"]) == 2
    assert "cuda_graph True: there are none on a CPU" in capsys.readouterr().err
    assert main([*words, "--run-dir", str(tmp_path / "plain")]) == 0
    monkeypatch.setattr("eyespot.pretrain.engine._check_cuda_graph", lambda *_: None)
    run_dir = ["--run-dir", str(tmp_path / "graphed2")]
    assert main([*words, *run_dir, "--cuda-graph", "--stop-after", "3"]) == 0
    assert main([*words, *run_dir, "--cuda-graph", "--resume", "auto"]) == 0
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("plain", "graphed2")
    ]
    for one, other in zip(*lines, strict=True):
        same = ("step", "loss", "grad_norm", "sample_digest")
        assert [one[name] for name in same] == [other[name] for name in same]
    assert json.loads((tmp_path / "graphed2" / "run.json").read_text())["run"]["cuda_graph"] is True
