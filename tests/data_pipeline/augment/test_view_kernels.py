"""The Triton kernels: interpreted they give the CPU's bits, and they can be compiled for GPUs that are not here."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from compiled_kernels import compiled
from view_counts import views_of_recipes

from eyespot.data_pipeline.augment import view_kernels

PROGRAM = Path(__file__).with_name("interpreted_views.py")
SHAPE = {"STEPS": 7, "TILE": view_kernels.TILE, "BLUR": 5, "TAPS": 12, "HEIGHT": 4, "WIDTH": 256, "ENDS": True}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory) -> dict:
    specs = tmp_path_factory.mktemp("views") / "specs"
    specs.write_bytes(pickle.dumps(views_of_recipes()))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(specs)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_step_gives_the_cpus_bits(interpreted):
    """Tolerance: none. Amounts that change nothing are among them, so only the others must."""
    assert len(interpreted["steps"]) == 22
    for step, found in interpreted["steps"].items():
        assert found["wrong"] == 0, step
        assert found["changed"] > 1 or step in (
            "brightness 1.0",
            "contrast 1.0",
            "saturation 1.0",
            "hue 0.0",
            "blur 0.1",
        )


@pytest.mark.parametrize("views", ["orders", "larger", "odd", "nothing"])
def test_views_of_photographs_have_the_cpus_bits(interpreted, views):
    """In all orders of a jitter; 64 pixels, and a size that no tile divides, as SimCLR alters them; and unaltered."""
    assert interpreted[views]["wrong"] == 0
    assert (interpreted[views]["changed"] > 0.5) == (views != "nothing")


def test_bfloat16_differs_by_its_rounding_only(interpreted):
    assert 0 < interpreted["half"]["wrong"] <= 1


def test_launches_and_bytes_of_a_view(interpreted):
    """At most four kernels; no more than 1.4 times the bytes of one that reads and writes everything once.

    Of RandAugment at most two for what its two steps have to know of whole views, one for who is moved twice, and one
    that finishes, erases and mirrors.
    """
    most = {"mae": 1, "finetune": 4}
    assert set(interpreted["costs"]) == {"simclr", "byol", "swav", "dino", *most}
    for method, views in interpreted["costs"].items():
        for view in views:
            assert view["launches"] <= most.get(method, 3)
            assert 1 < view["passes"] < 1.4


def test_what_goes_wrong_with_triton_ends_no_run(interpreted):
    assert interpreted["fallbacks"] == [True, True]


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_kernels_are_compiled_for_a_gpu_without_fused_operations_or_loose_divisions(capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kernel in (view_kernels.gray_totals, view_kernels.sharp_views, view_kernels.blurred_views):
        code = compiled(kernel, capability, SHAPE)
        assert "div.rn.f32" in code
        assert not any(word in code for word in ("fma.rn.f32", "div.full.f32", "div.approx", ".ftz"))
    assert "st.global" in compiled(view_kernels.sharp_views, capability, {**SHAPE, "STEPS": 0}), "nothing is altered"
