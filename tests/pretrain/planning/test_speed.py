"""Traffic counted by hand and on real sockets; the time of a step in its limits."""

import dataclasses
import math
import os
import socket
import struct
import sys
from pathlib import Path

import pytest
from step_passes import take_passes

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import Run, engine_settings
from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.distributed.collectives import barrier
from eyespot.pretrain.engine import make_engine
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.optim.optimizers import make_optimizer
from eyespot.pretrain.planning import speed
from eyespot.pretrain.planning.meter import Kernel, Work
from eyespot.pretrain.planning.speed import GPUS, Efficiency, Exchange, Links
from eyespot.pretrain.planning.trace import Sizes, Step, Trace, _batch, planned_ids, trace
from eyespot.pretrain.recipe_lookup import make_run

H100 = GPUS["h100"]
IDEAL = Efficiency(arithmetic=1.0, memory=1.0, links=1.0, launch_us=0.0, hop_us=0.0)
NOTHING = Work()
SIZES = Sizes(
    trainable=4_000, num_trainable=10, frozen=800, buffers=0, blocks=(1_000, 1_500), trainable_in_blocks=2_000
)


def work(flops: float, received: float = 0.0) -> Work:
    return Work(kernels=[Kernel(flops, 0.0)], received_bytes=received)


def step_of(images: int) -> Step:
    parts = {"first_pass": NOTHING, "update": NOTHING}
    return Step(activations=0, forward=work(images * 1e12, images * 70.0), backward=work(images * 2e12), **parts)


TRACE = Trace(sizes=SIZES, image_bytes=1, ranks=8, images=(1, 2), steps=(step_of(1), step_of(2)))


def make(engine: str, **changes) -> Run:
    run = dataclasses.replace(make_run("mae_tiny"), engine=engine, precision="bf16")
    for name, value in changes.items():
        part, _, field = name.partition("__")
        setattr(getattr(run, part), field, value)
    return run


@pytest.mark.parametrize(
    ("run", "accumulate", "expected"),
    [
        (make("ddp"), 1, {"gradients: all-reduce": 2 * 15 / 16 * 4_000}),
        (make("ddp"), 4, {"gradients: all-reduce": 2 * 15 / 16 * 4_000}),
        (
            make("fsdp"),
            2,
            {
                "parameters, forward: all-gather": 2 * 15 / 16 * 4_800,
                "parameters, backward: all-gather": 2 * 15 / 16 * 2_000,
                "gradients: reduce-scatter": 15 / 16 * 4_000,
            },
        ),
        (
            make("fsdp", fsdp__shard_over="node", fsdp__gather="bf16"),
            1,
            {
                "parameters, forward: all-gather": 7 / 8 * (1_250 + 2_300),
                "parameters, backward: all-gather": 7 / 8 * 1_000,
                "gradients: reduce-scatter": 7 / 8 * 4_000,
                "gradients between nodes: all-reduce": 2 * 1 / 2 * 500,
            },
        ),
        (
            make("deepspeed", deepspeed__stage=2),
            2,
            {
                "gradients: reduce-scatter": 2 * 15 / 16 * 4_000,
                "parameters after the step: all-gather": 15 / 16 * 4_000,
            },
        ),
        (
            make("deepspeed", deepspeed__stage=3),
            1,
            {
                "gradients: reduce-scatter": 15 / 16 * 4_000,
                "parameters, forward: all-gather": 15 / 16 * 4_800,
                "parameters, backward: all-gather": 15 / 16 * 4_000,
            },
        ),
    ],
)
def test_traffic_on_two_nodes_by_hand(run, accumulate, expected):
    found = speed.exchanges(run, TRACE, 16, 8, 10.0, accumulate)
    received = {exchange.name: exchange.received_bytes for exchange in found}
    embeddings = received.pop("embeddings, keys: all-gather")
    assert embeddings == pytest.approx(accumulate * 10 * 70 * 15 / 7)  # counted among 8
    assert received == pytest.approx(expected)


def test_one_gpu_talks_to_nobody():
    assert speed.exchanges(make("fsdp"), TRACE, 1, 8, 10.0, 1) == []


def time_of(run: Run, gpus: int, micro: float = 10, accumulate: int = 1, links: Links | None = None, share=IDEAL):
    return speed.step_time(run, TRACE, gpus, micro, accumulate, H100, links or Links(), share)


@pytest.mark.parametrize("engine", ["ddp", "fsdp", "deepspeed"])
def test_without_a_network_to_wait_for_only_arithmetic_is_left(engine):
    expected = 10 * 3e12 / (H100.bf16_tflops * 1e12)
    endless = Links(intra_gb_s=math.inf, inter_gb_s=math.inf)
    for time in (time_of(make(engine), 1), time_of(make(engine), 64, links=endless)):
        assert time.exposed == 0
        assert time.forward + time.backward == pytest.approx(expected)
    assert time_of(make(engine), 64, accumulate=2, links=endless).forward == pytest.approx(2 * expected / 3)


@pytest.mark.parametrize("engine", ["ddp", "fsdp", "deepspeed"])
def test_more_of_anything_good_is_never_slower(engine):
    run, small = make(engine), Efficiency()
    slow = [time_of(run, 64, links=Links(inter_gb_s=rate), share=small).total for rate in (1e-6, 1e-5, 1.0, 50.0)]
    assert slow == sorted(slow, reverse=True)
    assert slow[0] > slow[-1]
    reached = [time_of(run, 64, share=Efficiency(arithmetic=share)).total for share in (0.2, 0.5, 1.0)]
    assert reached == sorted(reached, reverse=True)
    images = [time_of(run, 64, micro=micro, share=small).total for micro in (1, 10, 100)]
    assert images == sorted(images)


def test_a_kernel_takes_the_longer_of_arithmetic_and_traffic():
    both = Work(kernels=[Kernel(989e12, 1.0), Kernel(1.0, 3350e9)])
    assert speed.work_seconds(both, H100, "bf16", IDEAL) == pytest.approx(2.0)
    assert speed.work_seconds(both, H100, "fp32", IDEAL) == pytest.approx(1 + 989 / 67)
    starts = Work(kernels=[Kernel(0.0, 1.0)] * 1000)
    assert speed.work_seconds(starts, H100, "bf16", Efficiency(launch_us=5.0)) == pytest.approx(5e-3)


def test_a_ring_is_as_fast_as_its_slowest_link():
    links = Links(node_gpus=8, intra_gb_s=400, inter_gb_s=10)
    whole = Exchange(name="", received_bytes=80e9, collectives=1, beside="nothing")
    assert speed.exchange_seconds(whole, 8, links, IDEAL) == pytest.approx(80 / 400)
    assert speed.exchange_seconds(whole, 16, links, IDEAL) == pytest.approx(80 / (8 * 10))
    within, between = (dataclasses.replace(whole, over=over) for over in ("node", "nodes"))
    assert speed.exchange_seconds(within, 16, links, IDEAL) == pytest.approx(80 / 400)
    assert speed.exchange_seconds(between, 16, links, IDEAL) == pytest.approx(80 / 10)
    late = speed.exchange_seconds(whole, 16, links, dataclasses.replace(IDEAL, hop_us=10.0))
    assert late == pytest.approx(1 + 4 * 10e-6)


def test_communication_hides_behind_its_pass_but_for_the_last_bucket():
    run = make("ddp")
    fast = time_of(run, 16, links=Links(inter_gb_s=1e-3))
    assert 0 < fast.communication < fast.backward
    gradients = 2 * 15 / 16 * 4_000 / (8 * 1e-3 * 1e9)
    embeddings = 10 * 70 * 15 / 7 / (8 * 1e-3 * 1e9)
    assert fast.exposed == pytest.approx(gradients + embeddings), "one bucket: nothing is left to hide behind"
    slow = time_of(run, 16, links=Links(inter_gb_s=1e-6))
    assert slow.exposed == pytest.approx(1000 * (gradients + embeddings) - min(slow.backward, 0), rel=0.01)


def test_unknown_gpus_and_close_names():
    assert speed.find_gpu("H100") is H100
    with pytest.raises(UserError, match="gpu 'h10': unknown; perhaps you meant h100"):
        speed.find_gpu("h10")
    with pytest.raises(UserError, match="there are v100, a100"):
        speed.find_gpu("quantum")
    with pytest.raises(UserError, match="inter_gb_s 0: must be above 0"):
        Links(inter_gb_s=0)


def received() -> int:
    """Bytes that this process's TCP sockets have received (Linux's TCP_INFO)."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += struct.unpack_from("Q", info, 128)[0]
        except OSError:
            continue
    return total


IMAGES = 64


def count_received(world: process_group.World, recipes: list[str]) -> list[float]:
    """What a step of each recipe under DDP brings to this rank, bytes: the second step, the first sets up."""
    counts = []
    for recipe in recipes:
        run = make_run(recipe)
        engine = make_engine(
            "ddp",
            fresh_objective(run, planned_ids(run)),
            world,
            lambda module, run=run: make_optimizer(module, run.optim),
            engine_settings(run, 2),
        )
        for _ in range(2):
            barrier()
            before = received()
            take_passes(engine, [(_batch(engine.objective, IMAGES), 0)])
            engine.objective.after_step(0.5)
            barrier()
        counts.append(received() - before)
    return counts


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_predicted_traffic_is_what_two_ranks_sockets_get(on_ranks):
    recipes = ["mae_tiny", "moco_tiny", "moco_v3_tiny"]
    for counts in on_ranks(count_received, 2, recipes):
        for recipe, counted in zip(recipes, counts, strict=True):
            run = make_run(recipe)
            planned = speed.exchanges(run, trace(run, 2), 2, 8, IMAGES, 1)
            expected = sum(exchange.received_bytes for exchange in planned)
            assert counted == pytest.approx(expected, rel=0.08), recipe  # more where the ranks wait for each other
