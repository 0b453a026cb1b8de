"""The CPU is taken where it is meant, or where nothing speaks for a GPU; else torch's own reason is told."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.pretrain.distributed import devices, process_group

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.fixture(autouse=True)
def nothing_speaks_for_devices(monkeypatch, tmp_path):
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")


@no_gpu
def test_auto_is_the_cpu_only_where_nothing_speaks_for_devices(monkeypatch):
    assert devices.own_device("auto") == torch.device("cpu")
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    assert devices.own_device("cpu") == torch.device("cpu"), "it is meant"
    for start in (devices.own_device, process_group.start):
        with pytest.raises(UserError) as error:
            start("auto")
        said = str(error.value)
        assert said.startswith("device auto: SLURM_JOB_GPUS=0 says that there are NVIDIA devices, but torch 2.")
        assert "cannot use them: Found no NVIDIA driver on your system; CUDA 13.0" in said, "in torch's words"
        assert "needs driver 580 or newer" in said and said.endswith("or mean the CPU with --device cpu")


@no_gpu
def test_cuda_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match=r"^device cuda: no NVIDIA device shows here, and torch .* Found no NVIDIA"):
        devices.own_device("cuda")


@no_gpu
def test_who_hides_the_devices_is_named(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")
    with pytest.raises(UserError, match="; unset CUDA_VISIBLE_DEVICES=NoDevFiles, which hides them, or mean the CPU"):
        devices.own_device("auto")


@no_gpu
@pytest.mark.parametrize(
    ("why_not", "kind"),
    [
        ("No CUDA GPUs are available", Outage),
        ("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized", Outage),
        ("The NVIDIA driver on your system is too old (found version 12040)", UserError),
        ("Found no NVIDIA driver on your system", UserError),
        ("Torch not compiled with CUDA enabled", UserError),
    ],
)
def test_a_gpu_that_has_failed_is_nobodys_wrong_input(monkeypatch, why_not, kind):
    """On one node of many it would else end the run for good."""
    monkeypatch.setattr(devices, "sign_of_devices", lambda: "/dev/nvidia0")
    monkeypatch.setattr(devices, "why_no_cuda", lambda: why_not)
    with pytest.raises(kind, match=r"^device auto: /dev/nvidia0 says that there are NVIDIA devices, but torch"):
        devices.own_device("auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")
    with pytest.raises(UserError, match="unset CUDA_VISIBLE_DEVICES"):
        devices.own_device("auto")


@no_gpu
def test_gpus_that_slurm_keeps_from_a_job_are_asked_for(monkeypatch):
    """The node is sound: nobody may be blamed for it, nor start again."""
    monkeypatch.setattr(devices, "sign_of_devices", lambda: "/dev/nvidia0")
    monkeypatch.setattr(devices, "why_no_cuda", lambda: "No CUDA GPUs are available")
    monkeypatch.setattr(devices, "is_denied", lambda path: True)
    with pytest.raises(UserError, match="kept from this job: ask for one, as in --gpus-per-node, or mean the CPU"):
        devices.own_device("auto")


CPU_WHEEL = """
import os, torch
# How torch itself knows a build without CUDA.
del torch._C._cuda_getDeviceCount
torch.version.cuda = None
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.devices import own_device
assert own_device("auto") == torch.device("cpu")
os.environ["CUDA_VISIBLE_DEVICES"] = "0"
try:
    own_device("auto")
except UserError as error:
    print(error)
"""


def test_a_torch_without_cuda():
    done = subprocess.run([sys.executable, "-c", CPU_WHEEL], capture_output=True, text=True, check=True)
    assert "Torch not compiled with CUDA enabled; nothing else here speaks for a GPU: unset it where" in done.stdout
    assert "else install the torch of PyPI, which holds CUDA" in done.stdout


ALLOCATOR = """
import os, torch
from eyespot.pretrain.distributed.devices import prefer_expandable_segments
prefer_expandable_segments()
print(torch._C._accelerator_getAllocatorSettings())
"""


def test_the_allocator_reads_what_is_set_after_torch_is_imported():
    done = subprocess.run([sys.executable, "-c", ALLOCATOR], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "expandable_segments:True"


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_users_own_allocator_settings_stay(monkeypatch, name):
    for other in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "max_split_size_mb:128")
    devices.prefer_expandable_segments()
    found = {other: devices.os.environ.get(other) for other in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")}
    assert found == {**dict.fromkeys(found), name: "max_split_size_mb:128"}


def told(*names: str) -> list[str]:
    """What each rank is told, by the names of the ranks' GPUs."""
    store = dist.HashStore()

    def rank(number: int) -> str:
        try:
            devices.require_apart(names[number], store, number, len(names))
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(rank, range(len(names))))


def test_one_visible_gpu_each_is_fine_and_one_for_all_is_not():
    assert told("n1 GPU-a", "n1 GPU-b", "n2 GPU-a") == ["", "", ""]
    assert told("", "", "") == ["", "", ""], "slices of a GPU"
    said = told("n1 GPU-a", "n1 GPU-b", "n1 GPU-a")
    assert said == [said[0]] * 3 and "(ranks 0, 2 on n1 GPU-a)" in said[0]
