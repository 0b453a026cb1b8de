"""Can torch compute on this node's GPUs? Asked in a process of its own: importing torch takes seconds, and a broken
driver may crash or hang whoever starts CUDA.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from eyespot.cluster.doctor.checks import CheckContext, in_one_line
from eyespot.cluster.doctor.findings import Finding
from eyespot.data_pipeline.loading.nvjpeg import REGIONS_SINCE

CHECK = "GPUs in torch"


def start_asking() -> subprocess.Popen[str]:
    """Begins to ask."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "eyespot.cluster.cli", "doctor", "--probe-gpus"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def probe() -> None:
    """Asks torch, and prints what came of it as JSON."""
    import torch

    from eyespot.data_pipeline.loading import nvjpeg
    from eyespot.pretrain.distributed.devices import remedy, why_no_cuda
    from eyespot.pretrain.distributed.nvidia_devices import sign_of_devices

    try:
        why_not = why_no_cuda()
    except Exception as error:  # whatever CUDA says at its start
        why_not = in_one_line(error)
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "why_not": why_not}
    found["nvjpeg"] = nvjpeg.version()
    if why_not:
        found["fix"] = remedy(sign_of_devices())
    else:
        found["gpus"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        found["jpeg_engines"] = nvjpeg.jpeg_engines()
    print(json.dumps(found))


def torch_findings(context: CheckContext, answer: Mapping[str, Any], sign: str) -> Iterator[Finding]:
    """What came of ``start_asking``.

    Args:
        context: of this node.
        answer: from ``answer_of``.
        sign: what says that there are GPUs.
    """
    if "why_not" not in answer:
        yield context.fail(CHECK, answer["said"], "try it alone there: python -c 'import torch; torch.cuda.init()'")
    elif answer["why_not"]:
        found = f"{sign} says that there are GPUs, but torch {answer['torch']} cannot use them: {answer['why_not']}"
        yield context.fail(CHECK, found, f"{answer['fix']}; or mean the CPU with --device cpu")
    else:
        names = ", ".join(sorted(set(answer["gpus"])))
        yield context.ok(CHECK, f"torch {answer['torch']} uses {len(answer['gpus'])} x {names}, CUDA {answer['cuda']}")
    if "nvjpeg" in answer:
        yield _nvjpeg(context, answer["nvjpeg"], answer.get("jpeg_engines"))


def _nvjpeg(context: CheckContext, version: list[int] | None, engines: int | None) -> Finding:
    """Which nvJPEG decodes, and with the help of what."""
    fix = "pip install nvidia-nvjpeg, beside nvidia-dali: LD_LIBRARY_PATH (module load cuda) brings others"
    if version is None:
        return context.warn("nvJPEG", "there is none: the CPU decodes", fix)
    name = "nvJPEG " + ".".join(map(str, version))
    if tuple(version) < REGIONS_SINCE:
        return context.warn("nvJPEG", f"{name} decodes whole images only, where one region of each would do", fix)
    parts = "" if engines is None else f", {engines or 'no'} JPEG engines (NVJPG) per GPU"
    return context.ok("nvJPEG", name + parts)


def answer_of(context: CheckContext, process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the process of ``start_asking`` printed, or under "said" what it did in place of that. Ends it."""
    seconds = context.seconds_left()
    try:
        printed, complaint = process.communicate(timeout=seconds)
        if printed:
            return json.loads(printed.splitlines()[-1])
        last = (complaint.strip().splitlines() or ["no word"])[-1].strip()[:200]
        return {"said": f"starting CUDA ended with code {process.returncode}: {last}"}
    except subprocess.TimeoutExpired:
        return {"said": f"starting CUDA did not end within {seconds:.0f} s"}
    except ValueError:
        return {"said": "starting CUDA left no answer"}
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Leaves nothing of the process of ``start_asking`` behind, whatever it does."""
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
