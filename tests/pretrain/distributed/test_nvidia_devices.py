"""What speaks for devices: a tree of files, the environment, a stand-in nvidia-smi."""

import nvidia_stand_ins
import pytest

from eyespot.pretrain.distributed import nvidia_devices


@pytest.fixture(autouse=True)
def nothing_speaks_for_devices(monkeypatch, tmp_path):
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")


@pytest.mark.parametrize(
    ("path", "sign"),
    [
        ("dev/nvidia3", "/dev/nvidia3"),
        ("proc/driver/nvidia/gpus/0000:18:00.0/information", "/proc/driver/nvidia/gpus"),
        ("dev/nvidiactl", ""),  # there is a driver, and no device
        ("dev/null", ""),
    ],
)
def test_files(tmp_path, path, sign):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    assert nvidia_devices.sign_of_devices(tmp_path) == sign


@pytest.mark.parametrize(
    ("name", "value", "there"),
    [
        ("CUDA_VISIBLE_DEVICES", "0,1", True),
        ("CUDA_VISIBLE_DEVICES", "GPU-3f2a", True),
        ("CUDA_VISIBLE_DEVICES", "", False),
        ("CUDA_VISIBLE_DEVICES", "-1", False),
        ("CUDA_VISIBLE_DEVICES", "NoDevFiles", False),
        ("SLURM_JOB_GPUS", "4", True),
        ("SLURM_STEP_GPUS", "0", True),
    ],
)
def test_environment(tmp_path, monkeypatch, name, value, there):
    monkeypatch.setenv(name, value)
    assert nvidia_devices.sign_of_devices(tmp_path) == (f"{name}={value}" if there else "")
    assert bool(nvidia_devices.hidden_by()) == (not there)


@pytest.mark.parametrize(
    ("chosen", "hidden"),
    [("3", True), ("1,0", True), ("0,3", False), ("0", False), ("GPU-3f2a", False), ("none", True)],
)
def test_a_number_of_the_host_hides_the_only_device_of_a_container(tmp_path, monkeypatch, chosen, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia3").touch()
    assert nvidia_devices.hidden_by(tmp_path) == (f"CUDA_VISIBLE_DEVICES={chosen}" if hidden else "")


def test_what_anybody_may_have_set_is_believed_last(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert nvidia_devices.sign_of_devices(tmp_path) == "CUDA_VISIBLE_DEVICES=0"
    nvidia_stand_ins.nvidia_smi(tmp_path, "healthy")
    assert nvidia_devices.sign_of_devices(tmp_path) == "nvidia-smi"
    monkeypatch.setenv("SLURM_STEP_GPUS", "4")
    assert nvidia_devices.sign_of_devices(tmp_path) == "SLURM_STEP_GPUS=4"


@pytest.mark.parametrize(
    ("script", "sign"),
    [
        ("echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'", "nvidia-smi"),
        ("echo 'No devices were found'", ""),
        ("echo 'GPU access blocked'; exit 9", ""),
    ],
)
def test_nvidia_smi_that_works_and_lists_some(tmp_path, script, sign):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert nvidia_devices.sign_of_devices(tmp_path) == sign


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder@U16-I3-B03)",
    ],
)
def test_driver(tmp_path, line):
    assert nvidia_devices.driver_version(tmp_path) == ""
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(f"{line}\nGCC version:  gcc version 12.3.0 (Ubuntu 12.3.0)\n")
    assert nvidia_devices.driver_version(tmp_path) == "550.54.15"


def test_oldest_drivers():
    assert [nvidia_devices.oldest_driver(cuda) for cuda in ("13.0", "12.8", "99.1")] == ["580", "525", ""]


def test_a_device_that_may_not_be_opened_is_denied(monkeypatch, tmp_path):
    (tmp_path / "nvidia0").touch()
    assert not nvidia_devices.is_denied(str(tmp_path / "nvidia0"))
    assert not nvidia_devices.is_denied(str(tmp_path / "nvidia1")), "it is gone"

    def refused(*_):
        raise PermissionError(1, "Operation not permitted")  # as a cgroup does, to root as well

    monkeypatch.setattr(nvidia_devices.os, "open", refused)
    assert nvidia_devices.is_denied(str(tmp_path / "nvidia0"))
