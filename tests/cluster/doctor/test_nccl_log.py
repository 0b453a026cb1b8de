"""Lines as NCCL writes them on clusters of several kinds."""

import pytest

from eyespot.cluster.doctor.nccl_log import transport

HEAD = "n1:4711:4711 [0] NCCL INFO "


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (
            [
                "NET/IB : Using [0]mlx5_0:1/IB [1]mlx5_1:1/IB [RO]; OOB ib0:10.0.0.1<0>",
                "Using network IB",
                "Channel 00/0 : 8[0] -> 0[0] [receive] via NET/IB/0/GDRDMA",
                "Channel 01/0 : 0[0] -> 8[0] [send] via NET/IB/1(1)/GDRDMA",
                "Channel 00/0 : 0[0] -> 7[7] via P2P/CUMEM",
            ],
            "NET/IB/GDRDMA (mlx5_0, mlx5_1), P2P/CUMEM",
        ),
        (
            [
                "NET/IB : No device found.",
                "NET/Socket : Using [0]eth0:10.0.0.1<0>",
                "Using network Socket",
                "Channel 00/0 : 1[0] -> 0[0] [receive] via NET/Socket/0",
            ],
            "NET/Socket (eth0)",
        ),
        (
            ["Using network AWS Libfabric", "Channel 00/0 : 8[0] -> 0[0] [receive] via NET/Libfabric/0/GDRDMA"],
            "NET/Libfabric/GDRDMA (AWS Libfabric)",
        ),
        (["Channel 00 : 0[0] -> 1[1] via SHM/direct/direct"], "SHM/direct/direct"),
        (["NET/Socket : Using [0]eth0:10.0.0.1<0>", "Using network Socket"], "NET/Socket (eth0)"),
        (["NCCL version 2.28.3+cuda13.0"], ""),
    ],
)
def test_ways_and_devices(tmp_path, lines, found):
    log = tmp_path / "nccl.log"
    log.write_text("".join(f"{HEAD}{line}\n" for line in lines))
    assert transport(log) == found


def test_no_log(tmp_path):
    assert transport(tmp_path / "nccl.log") == ""
