"""What engines keep, and the largest batch, in sums that a person can do."""

import dataclasses

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import Run
from eyespot.pretrain.planning import memory
from eyespot.pretrain.planning.memory import Fleet
from eyespot.pretrain.planning.trace import Sizes, Trace, trace
from eyespot.pretrain.recipe_lookup import make_run

SIZES = Sizes(
    trainable=4_000, num_trainable=10, frozen=800, buffers=100, blocks=(1_000, 1_500), trainable_in_blocks=2_000
)


def make(engine: str, recipe: str = "mae_tiny", precision: str = "fp32", **changes) -> Run:
    run = dataclasses.replace(make_run(recipe), engine=engine, precision=precision)
    for name, value in changes.items():
        part, _, field = name.partition("__")
        setattr(getattr(run, part), field, value)
    return run


def fleet(gpus: int = 16, gb: float = 80.0) -> Fleet:
    return Fleet(gpus=gpus, node_gpus=8, memory_gb=gb)


@pytest.fixture(scope="module")
def found() -> Trace:
    return trace(make_run("simclr_tiny"), 2)


@pytest.mark.parametrize(
    ("run", "parameters", "frozen", "gradients", "slots"),
    [
        (make("ddp"), 4_000, 800, 4_000, 8_040),
        (make("fsdp"), 250, 50, 250, 8_040 / 16),
        (make("fsdp", fsdp__shard_over="node"), 500, 100, 500, 8_040 / 8),
        (make("deepspeed", deepspeed__stage=1), 4_000, 800, 4_000, 8_040 / 16),
        (make("deepspeed", deepspeed__stage=2), 4_000, 800, 250, 8_040 / 16),
        (make("deepspeed", deepspeed__stage=3), 250, 50, 250, 8_040 / 16),
    ],
)
def test_what_each_engine_cuts_up(run, parameters, frozen, gradients, slots):
    parts = memory.state_bytes(run, SIZES, fleet())
    assert parts["parameters"] == parameters
    assert parts["teachers and frozen parameters"] == frozen
    assert parts["gradients"] == gradients
    assert parts["optimiser state (adamw)"] == slots
    assert parts["queues and other buffers"] == 100


def test_slots_of_other_optimisers():
    for name in ("sgd", "lars"):
        assert memory.optimizer_bytes(make("ddp", optim__name=name), SIZES) == 4_000
    assert memory.optimizer_bytes(make("ddp", optim__name="schedulefree"), SIZES) == 12_000


def test_two_blocks_are_whole_at_once():
    name = "gathered parameters (2 blocks, all outside blocks)"
    assert memory.temporary_bytes(make("fsdp"), SIZES, fleet(), 1)[name] == 2_500 + 2_300
    assert memory.temporary_bytes(make("fsdp", fsdp__gather="bf16"), SIZES, fleet(), 1)[name] == 1_250 + 2_300
    assert memory.temporary_bytes(make("ddp"), SIZES, fleet(), 1) == {}
    assert memory.temporary_bytes(make("ddp"), SIZES, fleet(1), 4) == {}
    assert sum(memory.temporary_bytes(make("ddp"), SIZES, fleet(), 4).values()) == 4_000
    whole = "whole gradients while micro-batches add up (FSDP)"
    assert whole not in memory.temporary_bytes(make("fsdp"), SIZES, fleet(), 1)
    assert memory.temporary_bytes(make("fsdp"), SIZES, fleet(), 2)[whole] == 4_000


def test_the_largest_micro_batch_fits_and_one_more_does_not(found):
    run, small = make_run("simclr_tiny"), fleet(gb=3.0)
    most = memory.largest_micro_batch(run, found, small, 1)
    assert most > 100

    def needed(images):
        return sum(memory.parts_of(run, found, small, images, 1).values())

    assert needed(most) <= small.usable_bytes < needed(most + 1)


def test_accumulation_is_the_least_that_fits(found):
    run, small = make_run("simclr_tiny"), fleet(gb=3.0)
    most = memory.largest_micro_batch(run, found, small, 4)
    accumulate = memory.fitting_accumulation(run, found, small, 2 * most)
    assert accumulate > 1
    assert (2 * most) % accumulate == 0
    assert memory.fitting_accumulation(run, found, small, 8) == 1
    run.data.accumulate = 4
    assert memory.fitting_accumulation(run, found, small, 8) == 4, "the run's own is kept"


def test_images_that_wait_are_bounded_by_bytes():
    run = make("ddp", recipe="simclr_tiny", precision="bf16")
    found = trace(run, 2)
    image = found.image_bytes
    assert found.bf16_views and image == 2 * 2 * 3 * run.encoder.image_size**2  # two views

    def parts(images, accumulate=1):
        return memory.image_bytes(run, found, images, accumulate)

    ready, kept = "images made ready", "images of the other micro-batches, for the second pass"
    assert parts(100)[ready] == 3 * 100 * image
    run.data.ready_mb = 1
    many = 2 * 10**6 // image
    assert parts(many // 4)[ready] == 1e6, "two batches may wait; three would take more"
    assert parts(many)[ready] == many * image, "one batch is always made ahead"
    assert kept not in parts(100) and parts(100, accumulate=8)[kept] == 7 * 100 * image


def test_a_method_that_compares_no_samples_keeps_no_images_of_other_micro_batches():
    run = make_run("mae_tiny")
    found = trace(run, 2)
    assert not found.bf16_views and found.image_bytes == 4 * 3 * run.encoder.image_size**2
    one, eight = (memory.image_bytes(run, found, 64, accumulate) for accumulate in (1, 8))
    assert one == eight


def test_the_decoder_holds_images_too(found):
    run, name, small = make_run("simclr_tiny"), "images in the decoder (DALI)", 3 * 32**2
    views = 2 * 3 * run.encoder.image_size**2
    assert memory.image_bytes(run, found, 10, 1)[name] == 10 * (5 * views + 2 * small) + 10 * small
    run.data.decode = "cpu"
    assert memory.image_bytes(run, found, 10, 1)[name] == 10 * views
    run.data.decode, run.encoder.image_size = "auto", 224
    assert memory.image_bytes(run, found, 10, 1)[name] == 10 * (5 * views + 2 * 3 * 375 * 500) + 512e6


def test_what_cannot_fit_says_what_is_too_big_and_what_to_do(found):
    with pytest.raises(UserError, match=r"alone takes .* try --engine fsdp"):
        memory.fitting_accumulation(make_run("simclr_tiny"), found, fleet(gb=1.67), 16)


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ({"gpus": 12}, "gpus 12: not a multiple of node_gpus 8; 16 would be"),
        ({"gpus": 0}, "gpus 0: must be 1 or more"),
        ({"memory_gb": -1.0}, "gpu_memory_gb -1.0: must be above 0"),
    ],
)
def test_wrong_fleets(values, answer):
    with pytest.raises(UserError, match=answer):
        Fleet(**{"gpus": 8, "node_gpus": 8, "memory_gb": 80.0, **values})


def test_deepspeeds_bucket_is_the_engines():
    from eyespot.pretrain.engines.deepspeed import MAX_BUCKET_ELEMENTS

    assert memory.DEEPSPEED_BUCKET == 4 * MAX_BUCKET_ELEMENTS
