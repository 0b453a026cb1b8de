"""Checkpoints: what is saved comes back, damage is noticed, a kill leaves the last good one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain import checkpoint
from eyespot.pretrain.checkpoint import Meta


def make_tensors(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {
        "model.encoder.weight": torch.randn(64, 32),
        "model.encoder.bias": torch.randn(64),
        "model.decoder.weight": torch.randn(8, 64),
        "optim.state.encoder.weight.exp_avg": torch.randn(64, 32),
        "optim.state.encoder.weight.step": torch.tensor(float(seed)),
    }


def save(folder: Path, step: int) -> Path:
    meta = Meta(step=step, loader={"samples_consumed": step * 8}, world_size=1, run_key="k")
    return checkpoint.save(folder, make_tensors(step), meta, keep=2)


def test_what_is_saved_comes_back(tmp_path):
    folder = save(tmp_path, 3)
    tensors = {name: torch.zeros_like(tensor) for name, tensor in make_tensors(0).items()}
    meta = checkpoint.load(folder, tensors)
    assert (meta.step, meta.loader) == (3, {"samples_consumed": 24})
    for name, tensor in make_tensors(3).items():
        assert torch.equal(tensors[name], tensor), name
    encoder = checkpoint.read_encoder(folder)
    assert set(encoder) == {"weight", "bias"}
    assert torch.equal(encoder["weight"], make_tensors(3)["model.encoder.weight"])


def test_nothing_in_it_is_pickled(tmp_path):
    folder = save(tmp_path, 1)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def test_the_newest_two_are_kept(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert [folder.name for folder in checkpoint.complete(tmp_path)] == ["step-00000002", "step-00000003"]
    assert checkpoint.newest(tmp_path).name == "step-00000003"
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000003"


def test_a_half_written_one_is_never_seen_and_swept(tmp_path):
    save(tmp_path, 1)
    half = tmp_path / "checkpoints" / "step-00000002.tmp"
    half.mkdir()
    (half / "meta.json").write_text("{}")
    assert checkpoint.newest(tmp_path).name == "step-00000001"
    save(tmp_path, 3)
    assert not half.exists()


def test_a_flipped_bit_is_named(tmp_path):
    folder = save(tmp_path, 1)
    path = next(folder.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{path.name} is damaged"):
        checkpoint.load(folder, make_tensors(0))
    with pytest.raises(UserError, match="damaged"):
        checkpoint.read_encoder(folder)


@pytest.mark.parametrize("damage", ["truncate", "remove", "meta", "no meta"])
def test_other_damage_is_one_line(tmp_path, damage):
    folder = save(tmp_path, 1)
    path = next(folder.glob("*.safetensors"))
    if damage == "truncate":
        os.truncate(path, 100)
    elif damage == "remove":
        path.unlink()
    elif damage == "meta":
        (folder / "meta.json").write_text("{")
    else:
        (folder / "meta.json").unlink()
    with pytest.raises(UserError) as caught:
        checkpoint.load(folder, make_tensors(0))
    assert "\n" not in str(caught.value)


def test_another_recipes_checkpoint_is_refused(tmp_path):
    folder = save(tmp_path, 1)
    other = make_tensors(0)
    other["model.encoder.weight"] = torch.zeros(64, 33)
    with pytest.raises(UserError, match=r"model.encoder.weight is \(64, 32\), this run's is \(64, 33\)"):
        checkpoint.load(folder, other)
    with pytest.raises(UserError, match=r"has no tensor model\.queue"):
        checkpoint.load(folder, {"model.queue": torch.zeros(3)})


def test_a_full_disk_leaves_the_last_good_one(tmp_path):
    """A file-size limit stands for the full disk: the write fails in the middle with a real OSError."""
    script = f"""
import resource, signal, sys, torch
from pathlib import Path
from eyespot.pretrain import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
meta = lambda step: checkpoint.Meta(step=step, loader={{}}, world_size=1, run_key="k")
run = Path({str(tmp_path)!r})
checkpoint.save(run, {{"model.a": torch.ones(100_000)}}, meta(1), keep=2)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    checkpoint.save(run, {{"model.a": torch.ones(100_000)}}, meta(2), keep=2)
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "checkpoint step-00000002 not written" in done.stdout
    assert [folder.name for folder in checkpoint.complete(tmp_path)] == ["step-00000001"]
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_a_kill_at_any_instant_leaves_the_last_good_one(tmp_path):
    """A process that saves without pause is killed again and again; what stands there always loads."""
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_checkpoint import save
from eyespot.pretrain.checkpoint import newest, read_meta
run = Path({str(tmp_path)!r})
last = newest(run)
step = read_meta(last).step if last else 0
print("ready", flush=True)
while True:
    step += 1
    save(run, step)
"""
    steps = []
    for attempt in range(3):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.1 + 0.17 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        newest = checkpoint.newest(tmp_path)
        if newest is not None:
            tensors = make_tensors(0)
            meta = checkpoint.load(newest, tensors)
            assert torch.equal(tensors["model.decoder.weight"], make_tensors(meta.step)["model.decoder.weight"])
            steps.append(json.loads((newest / "meta.json").read_text())["step"])
    assert steps == sorted(steps)
    assert steps[-1] > 1
