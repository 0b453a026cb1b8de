"""What fake tensors say, against real ones: parameters, memory of a process, arithmetic by hand."""

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from step_passes import take_passes

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import Run, engine_settings
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import make_engine
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.networks.repeated_blocks import choose_attention
from eyespot.pretrain.objectives.mae import MAE
from eyespot.pretrain.optim.optimizers import make_optimizer
from eyespot.pretrain.planning import memory
from eyespot.pretrain.planning.trace import _autocast, _batch, planned_ids, sizes, trace
from eyespot.pretrain.recipe_lookup import make_run

pytestmark = pytest.mark.slow

MIB = 2**20


@pytest.mark.parametrize("recipe", ["mae_tiny", "moco_tiny", "byol_tiny", "moco_r18_cifar10"])
def test_parameters_and_state_are_the_engines_to_the_byte(recipe):
    run = make_run(recipe)
    planned = trace(run, 1, "cpu").sizes
    world = World(rank=0, size=1, device=torch.device("cpu"))
    engine = make_engine(
        "ddp",
        fresh_objective(run, planned_ids(run)),
        world,
        lambda module: make_optimizer(module, run.optim),
        engine_settings(run, 1),
    )
    assert planned == sizes(engine.objective)
    tensors = engine.save_tensors()
    slots = [tensor for name, tensor in tensors.items() if name.startswith("optim.")]
    assert memory.optimizer_bytes(run, planned) == sum(slot.nbytes for slot in slots)
    trainable = [p for p in engine.objective.parameters() if p.requires_grad]
    assert planned.trainable == sum(p.nbytes for p in trainable)
    take_passes(engine, [(_batch(engine.objective, 4), 0)])
    assert planned.trainable == sum(p.grad.nbytes for p in trainable if p.grad is not None)
    fleet = memory.Fleet(gpus=1, node_gpus=8, memory_gb=80)
    state = sum(memory.state_bytes(run, planned, fleet).values())
    unsaved = sum(b.nbytes for b in engine.objective.buffers()) - sum(
        tensors[f"model.{name}"].nbytes for name, _ in engine.objective.named_buffers() if f"model.{name}" in tensors
    )
    assert state == sum(tensor.nbytes for tensor in tensors.values()) + planned.trainable + unsaved


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def measure(recipe: str, images: int, precision: str) -> int:
    """How far a real forward and backward pass raise this process's memory, bytes."""
    torch.set_num_threads(1)
    run = make_run(recipe)
    objective = fresh_objective(run, planned_ids(run))
    choose_attention(objective, torch.device("cpu"))
    for parameter in objective.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)

    def step(count: int) -> None:
        batch = _batch(objective, count)
        with _autocast(precision, "cpu")():
            loss = objective(batch)["loss"]
        loss.backward()
        objective.after_skip()

    step(4)
    ctypes.CDLL(None).malloc_trim(0)  # small pieces that are free again are not taken
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    step(images)
    return resident("VmHWM") - before


REAL_PASSES = (
    ("mae_vitt_cifar10", 64, "fp32"),
    ("mae_vitt_cifar10", 48, "bf16"),
    ("simclr_r18_cifar10", 24, "fp32"),
    ("moco_r18_cifar10", 32, "fp32"),
    ("moco_v3_vitt_cifar10", 12, "bf16"),
)


@pytest.fixture(scope="module")
def real_passes() -> dict[str, int]:
    """What each of REAL_PASSES takes, in a process whose allocator gives back what is freed."""
    environment = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)  # with the folders that conftest.py has added
    done = subprocess.run(
        [sys.executable, __file__], env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("recipe", "images", "precision"),
    [*REAL_PASSES[:-1], pytest.param(*REAL_PASSES[-1], marks=pytest.mark.thorough)],
)
def test_activations_are_what_a_real_process_takes(recipe, images, precision, real_passes):
    run = make_run(recipe)
    run.precision = precision
    measured = real_passes[f"{recipe} {precision}"]
    assert measured > 50 * MIB
    assert trace(run, 1, "cpu").at(images).activations == pytest.approx(measured, rel=0.12)


def plain_vit_flops(tokens: int, dim: int, depth: int, ratio: int = 4) -> float:
    """Forward pass of the blocks: 2 per weight and token, and two products of tokens x tokens x dim."""
    return depth * (2 * tokens * (4 + 2 * ratio) * dim**2 + 4 * tokens**2 * dim)


def mae_run(mask_ratio: float) -> Run:
    run = make_run("mae_tiny")
    run.encoder = EncoderConfig(name="vit_small_patch16_224")
    run.objective = MAE.Config(mask_ratio=mask_ratio, decoder_dim=256, decoder_depth=2, decoder_heads=8)
    return run


@pytest.mark.parametrize("mask_ratio", [0.75, 0.5])
def test_flops_are_those_by_hand_and_the_encoder_sees_its_share_only(mask_ratio):
    dim, patches, decoder = 384, 196, 256
    visible = int(patches * (1 - mask_ratio))
    patching = 2 * patches * 768 * dim
    expected = patching + plain_vit_flops(visible + 1, dim, 12) + plain_vit_flops(patches + 1, decoder, 2)
    expected += 2 * (visible + 1) * dim * decoder + 2 * (patches - visible) * decoder * 768
    step = trace(mae_run(mask_ratio), 1).at(10)
    assert step.forward.flops / 10 == pytest.approx(expected, rel=0.01)
    assert step.backward.flops / 10 == pytest.approx(2 * expected, rel=0.05)  # attention's logits once more


@pytest.mark.thorough
def test_checkpointing_trades_activations_for_a_second_forward_pass_of_the_encoder():
    run = make_run("moco_v3_vitt_cifar10")
    plain = trace(run, 1)
    run.encoder.checkpointing = True
    less = trace(run, 1)
    assert less.at(64).activations < 0.5 * plain.at(64).activations
    extra = less.at(64).backward.flops - plain.at(64).backward.flops
    last_product = 12 * 2 * 65 * 4 * 192**2  # of each block: nothing in the backward pass needs its result
    encoder = plain_vit_flops(65, 192, 12) - last_product
    assert extra == pytest.approx(2 * 64 * encoder, rel=0.02)  # two views


def test_a_teacher_runs_forward_only():
    step = trace(make_run("byol_tiny"), 1).at(64)
    # The student's backward pass is twice its forward pass, which is half of what runs forward.
    assert step.backward.flops == pytest.approx(step.forward.flops, rel=0.1)


@pytest.mark.parametrize(
    "recipe", ["simclr_tiny", "moco_tiny", pytest.param("moco_v3_tiny", marks=pytest.mark.thorough), "supcon_tiny"]
)
def test_what_is_exchanged_grows_with_ranks_and_images(recipe):
    few, many = trace(make_run(recipe), 2), trace(make_run(recipe), 5)

    def received(found, images):
        step = found.at(images)
        return sum(work.received_bytes for work in (step.forward, step.backward, step.update))

    assert received(few, 32) > 0
    assert received(few, 64) == pytest.approx(2 * received(few, 32))
    if recipe != "supcon_tiny":  # whose label sums are reduced
        assert received(many, 32) == pytest.approx(4 * received(few, 32))


def test_no_process_group_is_left_behind():
    trace(make_run("simclr_tiny"), 4)
    assert not torch.distributed.is_initialized()


class Peeking(MAE):
    """Asks a tensor for its value."""

    @dataclass(kw_only=True, slots=True)
    class Config(MAE.Config):
        def build(self, encoder, image_size):
            return Peeking(self, encoder, image_size)

    def forward(self, batch):
        scalars = super().forward(batch)
        return scalars if scalars["loss"].item() >= 0 else {}


def test_an_objective_that_needs_values_is_measured_instead():
    run = make_run("mae_tiny")
    run.precision = "fp32"
    plain = trace(run, 2)
    run.objective = Peeking.Config(decoder_dim=64, decoder_depth=2, decoder_heads=2)
    peeking = trace(run, 2)
    assert plain.measured_because is None
    assert peeking.measured_because is not None
    assert "DataDependent" in peeking.measured_because
    assert peeking.at(64).forward.flops == pytest.approx(plain.at(64).forward.flops, rel=1e-6)
    assert peeking.at(256).activations == pytest.approx(plain.at(256).activations, rel=0.1)


def test_wrong_encoders_stay_the_users_error():
    run = make_run("mae_tiny")
    run.encoder.name = "vit_bose"
    with pytest.raises(UserError, match="vit_bose"):
        trace(run, 1)
    assert make_encoder(make_run("mae_tiny").encoder) is not None


if __name__ == "__main__":
    print(
        json.dumps(
            {f"{recipe} {precision}": measure(recipe, images, precision) for recipe, images, precision in REAL_PASSES}
        )
    )


def test_a_plan_knows_how_many_samples_there_are(digits):
    """Of the shards where they can be read; else of the data set that images of this size come from."""
    run = make_run("simclr_tiny")
    assert len(planned_ids(run)) == 50_000
    run.data.shards = str(digits)
    assert len(planned_ids(run)) == 1438
    assert len(planned_ids(make_run("simclr_r50_in1k"))) == 1_281_167
