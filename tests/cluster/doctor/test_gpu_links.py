"""Tables as ``nvidia-smi topo -m`` prints them, of machines of several kinds."""

import pytest
from nvidia_stand_ins import nvidia_smi, topology

from eyespot.cluster.doctor import gpu_links

PAIRS = """\tGPU0\tGPU1\tGPU2\tGPU3\tmlx5_0\tCPU Affinity\tNUMA Affinity
GPU0\t X \tNV12\tSYS\tSYS\tPXB\t0-31\t0
GPU1\tNV12\t X \tSYS\tSYS\tPXB\t0-31\t0
GPU2\tSYS\tSYS\t X \tNV4\tSYS\t32-63\t1
GPU3\tSYS\tSYS\tNV4\t X \tSYS\t32-63\t1
mlx5_0\tPXB\tPXB\tSYS\tSYS\t X
"""


@pytest.mark.parametrize(
    ("way", "words", "slow"),
    [
        ("NV18", "NVLink (NV18)", 20e9),
        ("PIX", "PCIe through switches (PIX)", 6e9),
        ("PXB", "PCIe through switches (PXB)", 6e9),
        ("PHB", "PCIe through the host (PHB)", 2e9),
        ("NODE", "PCIe through the host (NODE)", 2e9),
        ("SYS", "PCIe through the host (SYS)", 2e9),
        ("???", "", 20e9),
    ],
)
def test_one_way_between_all(way, words, slow):
    link = gpu_links.parse(topology(4, way), [0, 1, 2, 3])
    assert (link.words, link.slow) == (words, slow)


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ([0, 1], "NVLink (NV12)"),
        ([3, 2], "NVLink (NV4)"),
        ([0, 2], "PCIe through the host (SYS)"),
        ([0, 1, 2], "NVLink between some, else PCIe through the host (SYS)"),
        ([0], ""),
        ([0, 7], ""),
    ],
)
def test_the_slowest_way_between_those_that_are_used_counts(gpus, words):
    assert gpu_links.parse(PAIRS, gpus).words == words


@pytest.mark.parametrize(
    ("way", "transport", "words", "slow"),
    [
        ("NV18", "P2P/CUMEM", "NVLink (NV18)", 20e9),
        ("NV18", "SHM/direct/direct", "NVLink (NV18)", 20e9),  # a fault, which is to be found
        ("PIX", "P2P/IPC", "PCIe through switches (PIX)", 6e9),
        ("PIX", "SHM/direct/direct", "PCIe through switches (PIX), without P2P, through the host's memory", 2e9),
        ("PIX", "P2P/IPC, SHM/direct/direct", "PCIe through switches (PIX), some of it without P2P", 2e9),
        ("SYS", "", "PCIe through the host (SYS)", 2e9),
        ("???", "SHM/direct/direct", "a link, without P2P, through the host's memory", 2e9),
    ],
)
def test_nccl_says_whether_it_goes_straight(way, transport, words, slow):
    link = gpu_links.as_used(gpu_links.parse(topology(2, way), [0, 1]), transport)
    assert (link.words, link.slow) == (words, slow)


def test_the_tool_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert gpu_links.ask([0, 1]) == gpu_links.UNKNOWN, "there is none"
    nvidia_smi(tmp_path, "healthy", count=2, way="NV12")
    assert gpu_links.ask([0, 1]).words == "NVLink (NV12)"
    nvidia_smi(tmp_path, "no driver")
    assert gpu_links.ask([0, 1]) == gpu_links.UNKNOWN
