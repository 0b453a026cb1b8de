"""GPUs, from what nvidia-smi says; no GPU is needed."""

import os
import subprocess
import sys

import nvidia_stand_ins
import pytest

from eyespot.cluster.doctor import gpus, torch_gpus

GOOD = """<gpu id="00000000:18:00.0"><product_name>NVIDIA H100 80GB HBM3</product_name><uuid>GPU-aaaa</uuid>
<fb_memory_usage><total>81559 MiB</total><reserved>551 MiB</reserved><used>1 MiB</used><free>81007 MiB</free>
</fb_memory_usage><temperature><gpu_temp>31 C</gpu_temp></temperature>
<ecc_errors><volatile><sram_correctable>7</sram_correctable><sram_uncorrectable_parity>0</sram_uncorrectable_parity>
<dram_uncorrectable>0</dram_uncorrectable></volatile></ecc_errors>
<remapped_rows><remapped_row_pending>No</remapped_row_pending><remapped_row_failure>No</remapped_row_failure>
</remapped_rows><clocks_event_reasons><clocks_event_reason_gpu_idle>Active</clocks_event_reason_gpu_idle>
<clocks_event_reason_hw_thermal_slowdown>Not Active</clocks_event_reason_hw_thermal_slowdown></clocks_event_reasons>
<processes></processes></gpu>"""
OLD = """<gpu id="00000000:3B:00.0"><product_name>Tesla V100</product_name><uuid>GPU-bbbb</uuid>
<fb_memory_usage><total>32510 MiB</total><used>1 MiB</used><free>32509 MiB</free></fb_memory_usage>
<temperature><gpu_temp>N/A</gpu_temp></temperature><ecc_errors><volatile><double_bit><device_memory>3</device_memory>
<total>3</total></double_bit></volatile></ecc_errors><retired_pages><pending_retirement>Yes</pending_retirement>
</retired_pages><clocks_throttle_reasons>
<clocks_throttle_reason_hw_thermal_slowdown>Active</clocks_throttle_reason_hw_thermal_slowdown>
</clocks_throttle_reasons></gpu>"""
USED = (
    GOOD.replace("GPU-aaaa", "GPU-cccc")
    .replace("<free>81007", "<free>20000")
    .replace(
        "<processes></processes>",
        """<processes><process_info><pid>4711</pid><process_name>/usr/bin/python3</process_name>
    <used_memory>61000 MiB</used_memory></process_info></processes>""",
    )
)
FRAME = "<nvidia_smi_log><driver_version>570.86.15</driver_version><cuda_version>12.8</cuda_version>{}</nvidia_smi_log>"


@pytest.fixture(autouse=True)
def all_visible(monkeypatch):
    slurm = ("JOB_GPUS", "STEP_GPUS", "GPUS_PER_TASK", "STEP_TASKS_PER_NODE", "NODEID", "LOCALID")
    for name in ("CUDA_VISIBLE_DEVICES", *(f"SLURM_{name}" for name in slurm)):
        monkeypatch.delenv(name, raising=False)


def judge(context, *elements):
    return [
        (f.check, f.level, f.found) for f in gpus.gpu_findings(context, gpus.parse(FRAME.format("".join(elements))))
    ]


def test_good_ones_are_counted(make_context):
    assert judge(make_context(processes=2), GOOD, GOOD) == [
        ("GPUs", "ok", "2 x NVIDIA H100 80GB HBM3, driver 570.86.15, CUDA 12.8")
    ]


def test_fewer_than_processes(make_context):
    check, level, found = judge(make_context(processes=4), GOOD, GOOD)[0]
    assert (check, level) == ("GPUs", "fail")
    assert found.startswith("2 to use where 4 processes")


def test_worn_hot_and_faulty_in_the_words_of_an_older_driver(make_context):
    wrong = judge(make_context(), OLD)[:-1]
    assert wrong == [
        ("GPU health", "fail", "GPU 0 (Tesla V100): worn memory waits for a restart to be retired"),
        ("GPU health", "warn", "GPU 0 (Tesla V100): 3 memory errors (ECC) not corrected"),
        ("GPU health", "warn", "GPU 0 (Tesla V100): slowed down: hw thermal slowdown"),
    ]


def test_somebody_else_is_on_it(make_context):
    (found,) = judge(make_context(), USED)[:-1]
    assert found == (
        "GPU memory",
        "fail",
        "GPU 0 (NVIDIA H100 80GB HBM3): 19.5 of 79.6 GiB free; process 4711 (python3, 61000 MiB)",
    )


def test_only_visible_ones_are_judged(make_context, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaa")
    assert [level for _, level, _ in judge(make_context(), USED, GOOD, OLD)] == ["ok"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [level for _, level, _ in judge(make_context(), USED, GOOD, OLD)] == ["ok"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (found,) = gpus.gpu_findings(make_context(), gpus.parse(FRAME.format(GOOD)))
    assert (found.level, found.found) == ("fail", "0 to use where the run needs one")
    assert found.fix == "unset CUDA_VISIBLE_DEVICES=, which hides them"


def test_without_a_driver(make_context, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    def level(device, job):
        (finding,) = gpus.look(make_context(job=job, values={"device": device}))
        return finding.level

    assert [level("cpu", "7"), level("auto", "7"), level("cuda", "7"), level("cuda", "")] == [
        "ok",
        "ok",
        "fail",
        "warn",
    ]


def test_a_driver_that_does_not_answer_is_told(make_context, monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'Unable to determine the device handle for GPU 0000:18:00.0: Unknown Error' >&2\nexit 9"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    (finding,) = gpus.look(make_context(values={"device": "cuda"}))
    assert finding.level == "fail"
    assert finding.found.startswith("nvidia-smi: Unable to determine the device handle for GPU 0000:18:00.0")


def tasks(monkeypatch, per_node, shown, number="0", per_task=""):
    """As ``srun`` tells each task on the first node of two."""
    given = {"STEP_TASKS_PER_NODE": per_node, "NODEID": "0", "LOCALID": number, "GPUS_PER_TASK": per_task}
    for name, value in given.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)


def test_a_task_counts_the_gpus_that_it_is_shown_and_says_whose_they_are(make_context, monkeypatch):
    """``srun --ntasks-per-node=3 --gpus-per-task=1 eyespot doctor``."""
    tasks(monkeypatch, "3(x2)", "1", number="1", per_task="1")
    whose = "1 x NVIDIA H100 80GB HBM3 for this task, one of 3 on this node, driver 570.86.15, CUDA 12.8"
    assert judge(make_context(), USED, GOOD, USED) == [("GPUs", "ok", whose)]


def test_a_task_that_sees_all_gpus_judges_its_own(make_context, monkeypatch):
    tasks(monkeypatch, "2,1", "0,1", number="1")
    assert [level for _, level, _ in judge(make_context(), USED, GOOD)] == ["ok"]
    monkeypatch.setenv("SLURM_LOCALID", "0")
    assert [level for _, level, _ in judge(make_context(), USED, GOOD)] == ["fail", "ok"]


def test_more_tasks_than_gpus_that_all_of_them_see(make_context, monkeypatch):
    tasks(monkeypatch, "4", "0,1")
    found = next(gpus.gpu_findings(make_context(), gpus.parse(FRAME.format(GOOD + GOOD))))
    assert (found.level, found.found) == ("fail", "2 to use where the 4 tasks of this node need one each")
    assert "--gpus-per-task=1" in found.fix and "start 2 tasks" in found.fix


def test_one_task_that_starts_all_ranks_was_given_the_gpu_of_one(make_context, monkeypatch):
    """A supervisor's, in a job that asks for --gpus-per-task=1."""
    tasks(monkeypatch, "1(x2)", "0", per_task="1")
    found = next(gpus.gpu_findings(make_context(processes=4), gpus.parse(FRAME.format(GOOD))))
    assert (found.level, found.found) == ("fail", "1 to use where 4 processes need one each")
    assert found.fix.startswith("SLURM_GPUS_PER_TASK=1, ") and "--gpus-per-node 4" in found.fix
    monkeypatch.delenv("SLURM_GPUS_PER_TASK")
    found = next(gpus.gpu_findings(make_context(processes=4), gpus.parse(FRAME.format(GOOD))))
    assert found.fix.startswith("CUDA_VISIBLE_DEVICES=0 shows no more: unset it, or ask")


@pytest.mark.parametrize(
    ("per_node", "node", "count"),
    [("", "", 1), ("8", "", 8), ("8(x2),4", "1", 8), ("8(x2),4", "2", 4), ("8(x2),4", "9", 8), ("many", "0", 1)],
)
def test_tasks_of_a_step(monkeypatch, per_node, node, count):
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", per_node)
    monkeypatch.setenv("SLURM_NODEID", node)
    assert gpus.tasks_here() == count


@pytest.mark.parametrize(
    ("driver", "why_not", "level"),
    [("550.54.15", "too old", "fail"), ("580.65.06", "other", "ok"), ("550.54.15", "", "ok"), ("1000.1", "x", "ok")],
)
def test_an_old_driver_is_not_ok_unless_torch_can_use_it(make_context, driver, why_not, level):
    """NVIDIA's compatibility package lets it."""
    fleet = gpus.parse(FRAME.format(GOOD).replace("570.86.15", driver))
    (found,) = gpus.gpu_findings(make_context(), fleet, {"cuda": "13.0", "why_not": why_not})
    assert found.level == level
    if level == "fail":
        assert found.found.endswith("driver 550.54.15, CUDA 12.8: too old for torch's CUDA 13.0")
        assert "580 or newer" in found.fix and "--exclude n1" in found.fix


def test_the_way_between_gpus_is_said(make_context, monkeypatch, tmp_path):
    nvidia_stand_ins.nvidia_smi(tmp_path, "healthy", count=2, way="SYS")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    fleet, complaint = gpus.ask()
    assert fleet is not None and not complaint
    counted, link = gpus.gpu_findings(make_context(processes=2), fleet)
    assert counted.found.startswith("2 x NVIDIA H100")
    assert (link.check, link.level, link.found) == ("GPU links", "ok", "PCIe through the host (SYS)")


@pytest.mark.parametrize("sign", ["SLURM_JOB_GPUS", ""])
def test_an_answer_that_was_cut_off_is_a_finding_and_leaves_no_process(make_context, monkeypatch, tmp_path, sign):
    nvidia_stand_ins.nvidia_smi(tmp_path, "healthy")
    (tmp_path / "smi.xml").write_text((tmp_path / "smi.xml").read_text()[:-30])
    (tmp_path / "smi.list").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if sign:
        monkeypatch.setenv(sign, "0")
    started = []

    def start() -> subprocess.Popen[str]:
        code = 'print(\'{"why_not": "x", "torch": "2", "fix": "y"}\', flush=True)'
        command = [sys.executable, "-S", "-c", code]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[0]

    monkeypatch.setattr(torch_gpus, "start_asking", start)
    found = [(f.check, f.level, f.found) for f in gpus.look(make_context(values={"device": "auto"}))]
    assert found[0][:2] == ("GPUs", "fail" if sign else "warn")
    assert found[0][2].startswith("nvidia-smi: its answer is no whole XML (")
    assert [check for check, *_ in found[1:]] == (["GPUs in torch"] if sign else [])
    assert len(started) == bool(sign) and all(process.poll() is not None for process in started)


def test_whatever_goes_wrong_while_looking_leaves_no_process(make_context, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    command = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    asked = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    monkeypatch.setattr(torch_gpus, "start_asking", lambda: asked)

    def broken():
        raise RuntimeError("what nobody expected")

    monkeypatch.setattr(gpus, "ask", broken)
    with pytest.raises(RuntimeError):
        list(gpus.look(make_context()))
    assert asked.poll() is not None and asked.stdout.closed
