"""What a run says it was computed with."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

import eyespot
from eyespot.pretrain.loop.environment import PACKAGES, code_state, hardware, versions


def test_versions_are_those_of_the_installed_packages():
    found = versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["torch"] == importlib.metadata.version("torch")
    assert found.keys() <= {"python", *PACKAGES}


def test_hardware():
    found = hardware()
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert found["cpu"]
    assert len(found["gpus"]) == torch.cuda.device_count()


def test_frozen_code_says_what_it_was_frozen_from(tmp_path):
    """And what else the file holds is nobody's business."""
    (tmp_path / "eyespot").symlink_to(Path(eyespot.__file__).parent)
    state = {"git_commit": "c0ffee", "git_diff_sha256": "d"}
    (tmp_path / "frozen.json").write_text(json.dumps({**state, "source": ["elsewhere"]}))
    script = "import json; from eyespot.pretrain.loop.environment import code_state; print(json.dumps(code_state()))"
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == state


def test_of_a_checkout_the_commit_and_of_other_places_nothing():
    root = Path(eyespot.__file__).parent
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    found = code_state()
    assert found.keys() == {"git_commit", "git_diff_sha256"}
    assert found["git_commit"] == head.stdout.strip()
