import json
import os
import shutil

import nvidia_stand_ins
import pytest
import torch

from eyespot.cluster.commands import doctor
from eyespot.data_pipeline.errors import UserError


def test_help_names_the_flags(capsys):
    assert doctor.main(["--help"]) == 0
    assert "--ranks" in capsys.readouterr().out


def test_this_machine(capsys):
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert "doctor: the run can start" in said
    assert "packages" in said


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--ranks", "0"], "ranks 0: must be 1 or more"),
        (["mae_tinny"], "perhaps you meant mae_tiny"),
        (["mae_tiny", "--stps", "3"], "--stps"),
        (["--rank", "3"], "--rank"),
    ],
)
def test_wrong_words(argv, words):
    with pytest.raises(UserError, match=words):
        doctor.main(argv)


def test_a_config_file_is_read_as_pretrain_reads_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text("[optim]\nlr = -1\n")
    with pytest.raises(UserError, match=r"^run\.toml:2: optim\.lr -1\.0: must be above 0"):
        doctor.main(["mae_tiny", "--config", "run.toml"])
    with pytest.raises(UserError, match=r"^recipe: run\.toml names none; .* eyespot doctor RECIPE --config run\.toml"):
        doctor.main(["--config=run.toml", "--ranks", "2"])


@pytest.mark.parametrize(
    ("words", "then"),
    [
        ("", "eyespot recipes "),
        ("--ranks 8 --timeout-seconds=9", "eyespot recipes "),
        ("mae_tiny --ranks 8 --data.shards d", "eyespot pretrain mae_tiny --data.shards d "),
        ("mae_tiny --timeout_seconds 60 --no-track --run-dir=r", "eyespot pretrain mae_tiny --no-track --run-dir=r "),
        ("--config run.toml --ranks=2 --seed 3", "eyespot pretrain --config run.toml --seed 3 "),
        ("--ranks 2 --from other --run-dir r", "eyespot pretrain --from other --run-dir r "),
        (". --ranks 2", "eyespot launch --again . "),
    ],
)
def test_what_comes_next_can_be_typed(words, then, capsys):
    doctor.say_what_is_next(words.split())
    assert capsys.readouterr().err.startswith(f"next: {then}")


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"no run\.json inside"):
        doctor.main([str(tmp_path)])


def test_a_recipe_on_this_machine_and_the_run_folder_it_names(digits, tmp_path, capsys):
    """All of it: the rank's process decodes an image; too many ranks for the batch are found; nothing is left."""
    flags = ["--data.shards", str(digits), "--run-dir", str(tmp_path / "run"), "--device", "cpu", "--ranks", "512"]
    assert doctor.main(["mae_tiny", *flags, "--json", "--timeout-seconds", "300"]) == 2
    verdict = json.loads(capsys.readouterr().out)
    found = {finding["check"]: finding for finding in verdict["findings"]}
    wrong = {check for check, finding in found.items() if finding["level"] != "ok"}
    assert wrong - {"limits"} == {"samples"}  # 512 ranks need many open files
    assert "256 cannot be dealt to 512 ranks" in found["samples"]["found"]
    assert "one image decoded on cpu" in found["data pipeline"]["found"]
    assert "3 checkpoints of 4.3 MB" in found["disk space"]["found"]
    assert list(tmp_path.iterdir()) == []


# What a machine with NVIDIA devices may look like: the real command, told by stand-ins.
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler for the stand-in driver")
BUT = "nvidia-smi says that there are GPUs, but torch {torch} cannot use them: "
NO_DRIVER = "Found no NVIDIA driver on your system"
"""torch's word on a machine without a GPU, whatever nvidia-smi says."""
MACHINES = {
    "healthy": [
        ("GPUs", "ok", "1 x NVIDIA H100 80GB HBM3, driver 580.82.07, CUDA 13.0"),
        ("GPUs in torch", "fail", BUT + NO_DRIVER),
    ],
    "old driver": [
        ("GPUs", "fail", "1 x NVIDIA H100 80GB HBM3, driver 550.54.15, CUDA 12.4: too old for torch's CUDA 13.0"),
        ("GPUs in torch", "fail", f"{BUT}The NVIDIA driver on your system is too old (found version 12040)"),
    ],
    "ECC errors": [
        ("GPU health", "warn", "GPU 0 (NVIDIA H100 80GB HBM3): 3 memory errors (ECC) not corrected"),
        ("GPUs in torch", "fail", BUT + NO_DRIVER),
    ],
    "throttled": [
        ("GPU health", "warn", "GPU 0 (NVIDIA H100 80GB HBM3): slowed down: hw thermal slowdown"),
        ("GPUs in torch", "fail", BUT + NO_DRIVER),
    ],
    "no driver": [("GPUs", "warn", "nvidia-smi: NVIDIA-SMI couldn't communicate with the NVIDIA driver.")],
    "no --gpus": [
        ("GPUs", "warn", "nvidia-smi finds none, but SLURM_JOB_GPUS=0 says that there are some"),
        ("GPUs in torch", "fail", BUT.replace("nvidia-smi", "SLURM_JOB_GPUS=0") + NO_DRIVER),
    ],
    "only CUDA_VISIBLE_DEVICES": [
        ("GPUs", "warn", "nvidia-smi finds none, but CUDA_VISIBLE_DEVICES=0 says that there are some"),
        ("GPUs in torch", "fail", BUT.replace("nvidia-smi", "CUDA_VISIBLE_DEVICES=0") + NO_DRIVER),
    ],
    "a GPU per task": [
        ("GPUs", "ok", "1 x NVIDIA H100 80GB HBM3 for this task, one of 4 on this node, driver 580.82.07, CUDA 13.0"),
        ("GPUs in torch", "fail", BUT + NO_DRIVER),
    ],
    "CPU-only torch": [
        ("GPUs", "ok", "1 x NVIDIA H100 80GB HBM3, driver 580.82.07, CUDA 13.0"),
        ("GPUs in torch", "fail", f"{BUT}Torch not compiled with CUDA enabled"),
    ],
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("machine", [pytest.param(m, marks=needs_gcc if m == "old driver" else ()) for m in MACHINES])
def test_gpus_that_torch_cannot_use_stop_the_run(machine, tmp_path, monkeypatch, capsys):
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if machine == "no --gpus":
        monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    elif machine == "only CUDA_VISIBLE_DEVICES":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    elif machine == "a GPU per task":  # as ``srun --ntasks-per-node=4 --gpus-per-task=1`` tells the third
        nvidia_stand_ins.nvidia_smi(tmp_path, "healthy", count=4)
        told = {"STEP_TASKS_PER_NODE": "4(x2)", "NODEID": "1", "LOCALID": "2", "GPUS_PER_TASK": "1"}
        for name, value in told.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    else:
        nvidia_stand_ins.nvidia_smi(tmp_path, "healthy" if machine == "CPU-only torch" else machine)
    if machine == "old driver":
        nvidia_stand_ins.old_libcuda(tmp_path)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    if machine == "CPU-only torch":
        nvidia_stand_ins.cpu_only_torch(tmp_path)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    code = doctor.main(["--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    found = [(f["check"], f["level"], f["found"]) for f in findings if f["check"].startswith("GPU")]
    expected = [(check, level, said.format(torch=torch.__version__)) for check, level, said in MACHINES[machine]]
    assert [row for row in found if row in expected] == expected, found
    assert {row for row in found if row[1] != "ok"} <= set(expected)
    nvjpeg = [f["found"] for f in findings if f["check"] == "nvJPEG"]
    assert [found.startswith("nvJPEG 13.") for found in nvjpeg] == [True] * (machine != "no driver")
    failed = [finding for finding in findings if finding["level"] == "fail"]
    assert code == (2 if failed else 0)
    what = "install the torch of PyPI, which holds CUDA" if machine == "CPU-only torch" else "driver 580 or newer"
    if machine == "only CUDA_VISIBLE_DEVICES":
        what = "unset it where there is none"
    assert all(what in finding["fix"] for finding in failed)
    fixes = [finding["fix"] for finding in failed if finding["check"] == "GPUs in torch"]
    assert all(fix.endswith("with --device cpu") for fix in fixes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_rank_of_a_run_falls_back_to_the_cpu(digits, tmp_path, monkeypatch, capsys):
    """It is told once, and no image is decoded elsewhere in place of there."""
    monkeypatch.setenv("SLURM_STEP_GPUS", "0")
    flags = ["--data.shards", str(digits), "--run-dir", str(tmp_path / "run"), "--json", "--timeout-seconds", "300"]
    assert doctor.main(["mae_tiny", *flags]) == 2
    found = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert [check for check, finding in found.items() if finding["level"] == "fail"] == ["GPUs in torch"]
    assert not {"data pipeline", "all-reduce"} & found.keys()
