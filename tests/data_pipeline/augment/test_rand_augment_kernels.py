"""RandAugment's kernels: interpreted they give the CPU's bits, and they can be compiled for GPUs that are not here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiled_kernels import compiled

from eyespot.data_pipeline.augment import rand_augment_kernels
from eyespot.data_pipeline.augment.rand_augment import CHOICES

PROGRAM = Path(__file__).with_name("interpreted_rand_augment.py")


@pytest.fixture(scope="module")
def interpreted() -> dict:
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.thorough
def test_each_operation_gives_the_cpus_bits(interpreted):
    """Tolerance: none; for rotations, whose weights are rounded as torch was built, a thousandth of a level."""
    assert {step.split()[0] for step in interpreted["alone"]} == {operation.__name__ for operation, _ in CHOICES}
    for step, found in interpreted["alone"].items():
        assert found["wrong"] <= (1e-3 if "rotate" in step else 0), step
        assert found["changed"] > 1 or step.split()[0] in ("saturation", "sharpness", "invert_above"), step


@pytest.mark.thorough
def test_all_pairs_of_its_operations_give_the_cpus_bits(interpreted):
    """But for pairs with a rotation: where a table or threshold follows, its rounding may move a level by a step."""
    assert len(interpreted["pairs"]) == len(CHOICES) ** 2
    for pair, found in interpreted["pairs"].items():
        rotated, *later = pair.split() if pair.startswith("rotate") else (None,)
        loose = rotated and later[0] in ("equalize", "posterize", "invert_above")
        assert found["share"] <= (0.01 if loose else 0), pair
        assert found["wrong"] <= (255 if loose else 1e-3 if "rotate" in pair else 0), pair


@pytest.mark.thorough
@pytest.mark.parametrize("views", ["erased", "augmented", "all"])
def test_views_are_erased_and_mirrored_last_as_by_torch(interpreted, views):
    """A jittered view, RandAugment's, and one with both: at most one value in a thousand is apart, after rotations."""
    assert interpreted[views]["share"] <= (0 if views == "erased" else 1e-3)


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_kernels_are_compiled_for_a_gpu_without_fused_operations_or_loose_divisions(capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kernel, tile in (
        (rand_augment_kernels.augmented, rand_augment_kernels.TILE),
        (rand_augment_kernels.measure, rand_augment_kernels.MEASURED_TILE),
    ):
        code = compiled(kernel, capability, {"STEPS": 2, "TILE": tile, "KEEP": False, "ENDS": True})
        assert "div.rn.f32" in code
        code = code.replace("cvt.rmi.ftz.f32.f32", "floor")  # which may take a number below 1e-37 for 0
        assert not any(word in code for word in ("fma.rn.f32", "div.full.f32", "div.approx", ".ftz"))
