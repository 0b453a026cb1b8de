"""GPUs, from what nvidia-smi says; no GPU is needed."""

import pytest

from eyespot.cluster.doctor import gpus

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
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS"):
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
    assert [level for _, level, _ in judge(make_context(), USED, GOOD, OLD)] == ["fail", "ok"]


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
