"""MFU in sums that a person can do."""

import dataclasses

import pytest
import torch

from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.planning.trace import trace
from eyespot.pretrain.planning.utilization import Utilization, peak_tflops
from eyespot.pretrain.recipe_lookup import make_run


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 80GB HBM3", "fp32", 67),
        ("NVIDIA H200", "bf16", 989),
        ("NVIDIA A100-SXM4-40GB", "tf32", 156),
        ("NVIDIA A100-PCIE-40GB", "bf16", 312),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", 0),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA H100 PCIe", "bf16", 0),
        ("NVIDIA H100 NVL", "bf16", 0),
        ("NVIDIA GH200 480GB", "bf16", 0),
        ("NVIDIA GeForce RTX 4090", "bf16", 0),
    ],
)
def test_the_peak_is_of_this_card_or_not_known(name, precision, tflops):
    assert peak_tflops(name, dataclasses.replace(make_run("mae_tiny"), precision=precision)) == tflops


def test_it_is_the_passes_arithmetic_over_what_all_gpus_could_do():
    """Two GPUs of 0.5 TFLOP/s; what checkpointing computes again is no use, and not counted."""
    run = make_run("mae_tiny")
    used = Utilization(dataclasses.replace(run, encoder=dataclasses.replace(run.encoder, checkpointing=True)), 2, 0.5)
    assert used(1000.0) == {}  # not known yet
    used.counting.join()
    images = run.data.batch_size // 2
    step = trace(run, 1, "cuda").at(images)
    flops = (step.forward.flops + step.backward.flops) / images
    assert flops > 1e6
    assert used(1000.0) == {"mfu": pytest.approx(1000 * flops / 1e12, abs=6e-5)}


def test_a_run_on_a_cpu_has_none():
    used = Utilization.of(make_run("mae_tiny"), World(rank=0, size=1, device=torch.device("cpu")))
    assert not used.counting.is_alive()
    assert used(1000.0) == {}
