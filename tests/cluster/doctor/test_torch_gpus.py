"""What becomes of torch's answers; the real one on machines of several kinds: tests/cluster/commands/test_doctor.py."""

import json
import subprocess
import sys

import pytest

from eyespot.cluster.doctor import torch_gpus


def judged(context, script):
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    answer = torch_gpus.answer_of(context, process)
    finding, *others = torch_gpus.torch_findings(context, answer, "/dev/nvidia0")
    assert process.poll() is not None, "it was not left behind"
    return finding.level, finding.found, *((other.level, other.found) for other in others)


def test_gpus_are_counted(make_context):
    answer = {"torch": "2.14.1", "cuda": "13.0", "why_not": "", "gpus": ["NVIDIA H100"] * 2}
    said = judged(make_context(), f"print('a warning'); print({json.dumps(answer)!r})")
    assert said == ("ok", "torch 2.14.1 uses 2 x NVIDIA H100, CUDA 13.0")


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"nvjpeg": [13, 3, 2], "jpeg_engines": 7}, ("ok", "nvJPEG 13.3.2, 7 JPEG engines (NVJPG) per GPU")),
        ({"nvjpeg": [13, 3, 2], "jpeg_engines": 0}, ("ok", "nvJPEG 13.3.2, no JPEG engines (NVJPG) per GPU")),
        ({"nvjpeg": [13, 2, 0], "jpeg_engines": None}, ("ok", "nvJPEG 13.2.0")),
        (
            {"nvjpeg": [13, 0, 1], "jpeg_engines": 7},
            ("warn", "nvJPEG 13.0.1 decodes whole images only, where one region of each would do"),
        ),
        ({"nvjpeg": None}, ("warn", "there is none: the CPU decodes")),
    ],
)
def test_which_nvjpeg_decodes(make_context, known, said):
    answer = {"torch": "2.14.1", "cuda": "13.0", "why_not": "", "gpus": ["NVIDIA H100"], **known}
    assert judged(make_context(), f"print({json.dumps(answer)!r})")[2] == said


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys; sys.exit('Traceback\\nOSError: libcudart.so.13')", "ended with code 1: OSError: libcudart.so.13"),
        ("import os; os.kill(os.getpid(), 11)", "ended with code -11: no word"),
        ("import time; time.sleep(60)", "did not end within"),
        ("print('what?')", "left no answer"),
    ],
)
def test_a_crash_a_hang_and_nonsense_are_failures(make_context, script, said):
    level, found = judged(make_context(seconds=3), script)
    assert level == "fail" and found.startswith("starting CUDA ") and said in found
