import os

import pytest
import torch
from nvidia_stand_ins import nvidia_smi

from eyespot.cluster.doctor import probe
from eyespot.cluster.doctor.findings import Answer
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.recipe_lookup import make_run


def test_a_report_names_the_stage_that_is_next_and_keeps_errors(tmp_path):
    report = probe.Report(path=tmp_path / "rank-3.json", rank=3)
    with report.stage("recipe", "mend it"):
        assert Answer.read(report.path).facts["stage"] == "recipe"
        raise UserError("steps 0: must be 1 or more")
    with report.stage("data pipeline", "look at DALI"):
        report.add("data pipeline", "ok", "so far")
        raise RuntimeError("CUDA driver\n is too old")
    report.write("end")
    kept = Answer.read(report.path)
    assert kept.facts == {"stage": "end"}
    assert [(f.check, f.level, f.found, f.fix) for f in kept.findings] == [
        ("recipe", "fail", "steps 0: must be 1 or more", "mend it"),
        ("data pipeline", "ok", "so far", ""),
        ("data pipeline", "fail", "RuntimeError: CUDA driver is too old", "look at DALI"),
    ]
    assert all(finding.seconds > 0 for finding in kept.findings)


def test_one_image_is_made_into_the_views_of_the_recipe(digits):
    run = make_run("simclr_tiny")
    run.data.shards, run.device = str(digits), "cpu"
    assert (
        probe._decode(run, probe._objective(run), 7, torch.device("cpu"))
        == "one image decoded on cpu, 2 views of it made"
    )


def test_the_state_is_sized_without_its_numbers():
    run = make_run("mae_vitl16_in1k")
    objective = probe._objective(run)
    assert {parameter.device.type for parameter in objective.parameters()} == {"meta"}
    held = probe.sizes(objective)
    # ViT-L and its decoder: 329.5 million parameters of 4 bytes, and two more such numbers in AdamW.
    assert held.parameters + probe.optimizer_bytes(run, held) == pytest.approx(3 * 4 * 329.5e6, rel=0.01)


def exchange(world, folder):
    report = probe.Report(path=folder / f"rank-{world.rank}.json", rank=world.rank)
    probe._exchange(report, world)
    return report


def test_ranks_sum_and_compare_clocks(on_ranks, tmp_path):
    for report in on_ranks(exchange, 2, tmp_path):
        (finding,) = report.findings
        assert finding.found.startswith("gloo: right on all 2 ranks, ")
        assert report.facts["clocks"][0] == 0
        assert abs(report.facts["clocks"][1]) < 2


@pytest.mark.parametrize(
    ("ranks", "local", "way", "transport", "least"),
    [
        (2, "2", "NV18", "P2P/CUMEM", 20e9),
        (2, None, "NV18", "", 20e9),
        (2, "2", "PIX", "P2P/IPC", 6e9),
        (2, "2", "SYS", "SHM/direct/direct", 2e9),
        (4, "2", "NV18", "NET/IB (mlx5_0)", 10e9),
    ],
)
def test_nccl_is_bound_by_the_link_inside_a_node(monkeypatch, tmp_path, ranks, local, way, transport, least):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if local:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    nvidia_smi(tmp_path, "healthy", count=2, way=way)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    name, link = probe._expected(World(rank=0, size=ranks, device=torch.device("cuda", 0)), transport)
    assert (name, link.slow) == ("NCCL", least)
    assert ("libibverbs1" in link.fix) == (least == 10e9)


def test_a_slow_link_is_told_once_by_the_first_rank(monkeypatch, tmp_path):
    """PCIe boards without P2P reach what they can, and that is no fault."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    nvidia_smi(tmp_path, "healthy", count=2, way="PHB")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    (tmp_path / "nccl.log").write_text("NCCL INFO Channel 00 : 0[0] -> 1[1] via SHM/direct/direct\n")
    monkeypatch.setattr(probe, "_sum_is_right", lambda *_: None)
    monkeypatch.setattr(probe, "_clock_offsets", lambda _: torch.zeros(2).numpy())

    def told(rank: int, speed: float) -> tuple[str, str]:
        monkeypatch.setattr(probe, "_bandwidth", lambda _: speed)
        report = probe.Report(path=tmp_path / "rank.json", rank=rank)
        world = World(rank=rank, size=2, device=torch.device("cuda", rank))
        probe._exchange(report, world, tmp_path / "nccl.log" if rank == 0 else None)
        (finding,) = report.findings
        return finding.level, finding.found

    way = "by SHM/direct/direct, PCIe through the host (PHB), without P2P, through the host's memory"
    assert told(0, 5e9) == ("ok", f"NCCL: right on all 2 ranks, 5.00 GB/s, {way}")
    assert told(0, 1e9) == (
        "warn",
        f"NCCL: right on all 2 ranks, 1.00 GB/s, {way}: slow, 2 GB/s were to be expected",
    )
    assert told(1, 1e9) == ("ok", "NCCL: right on all 2 ranks, 1.00 GB/s")


def test_ranks_on_one_gpu_are_no_fault_of_the_network(monkeypatch, tmp_path):
    def refuse(*_):
        raise UserError("device cuda: ranks share a GPU (ranks 0, 1 on n1 GPU-a); start one process for each GPU")

    monkeypatch.setattr(probe.process_group, "start", refuse)
    report = probe.Report(path=tmp_path / "rank-0.json", rank=0)
    with report.stage("all-reduce", "look at the network"):
        assert probe._meet(report, make_run("mae_tiny"), 1.0) is None
    (finding,) = report.findings
    assert (finding.check, finding.level) == ("device", "fail")
    assert "ranks share a GPU" in finding.found and "network" not in finding.fix


def test_nccl_says_what_it_uses_unless_the_user_has_it_say_something(monkeypatch, tmp_path):
    for name in ("NCCL_DEBUG", "NCCL_DEBUG_FILE"):
        monkeypatch.setenv(name, "")  # what is set below is taken back
        monkeypatch.delenv(name)
    assert probe._listen_to_nccl(tmp_path) == tmp_path / "nccl.log"
    assert (os.environ["NCCL_DEBUG"], os.environ["NCCL_DEBUG_FILE"]) == ("INFO", str(tmp_path / "nccl.log"))
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    assert probe._listen_to_nccl(tmp_path) is None
    assert os.environ["NCCL_DEBUG"] == "WARN"
