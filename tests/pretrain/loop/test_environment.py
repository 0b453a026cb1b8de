"""What a run says it was computed with."""

import hashlib
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import eyespot
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.loop import environment
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


@pytest.mark.parametrize("said", ["[" * 100_000, "{}", '{"git_commit": 1, "git_diff_sha256": ""}', "no json"])
def test_a_damaged_record_of_frozen_code_is_one_line(tmp_path, monkeypatch, said):
    (tmp_path / "frozen.json").write_text(said)
    monkeypatch.setattr(eyespot, "__file__", str(tmp_path / "eyespot" / "__init__.py"))
    for ask in (code_state, lambda: environment.own_code_state("mae_tiny")):
        with pytest.raises(UserError, match=r"frozen\.json: .+"):
            ask()


def test_of_a_checkout_the_commit_and_of_other_places_nothing():
    root = Path(eyespot.__file__).parent
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    found = code_state()
    assert found.keys() == {"git_commit", "git_diff_sha256"}
    assert found["git_commit"] == head.stdout.strip()


def test_ones_own_code_is_named_with_its_checkout(tmp_path, monkeypatch):
    def git(*words):
        name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", "-C", str(tmp_path), *name, *words], capture_output=True, check=True)
        return done.stdout.decode().strip()

    path = tmp_path / "recipe_of_this_test.py"
    path.write_text("one = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert environment.own_code_state("recipe_of_this_test:one") is None, "it is not imported"
    importlib.import_module("recipe_of_this_test")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    plain = {"file": str(path), "sha256": digest, "git_commit": "", "git_diff_sha256": ""}
    assert environment.own_code_state("recipe_of_this_test:one") == plain
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    found = environment.own_code_state("recipe_of_this_test:one")
    assert found == {**plain, "git_commit": git("rev-parse", "HEAD")}
    path.write_text("one = 2\n")
    changed = environment.own_code_state("recipe_of_this_test:one")
    assert changed["sha256"] != digest and len(changed["git_diff_sha256"]) == 64
    assert environment.own_code_state("mae_tiny") is None
    assert environment.own_code_state("eyespot.pretrain.recipes.mae:mae_tiny") is None
