"""What machine this is, and what of its stated speed plain kernels reach."""

import os
import shutil
import subprocess

import torch
from gpu.instruments import DEVICE, DRY, Note, milliseconds


def run(note: Note) -> None:
    note("torch, CUDA", f"{torch.__version__}, {torch.version.cuda}")
    note("cores of this process", str(len(os.sched_getaffinity(0))))
    if not DRY:
        note("GPU", f"{torch.cuda.get_device_name()}, {torch.cuda.mem_get_info()[1] / 1e9:.0f} GB")
    if shutil.which("nvidia-smi") and not DRY:
        asked = "driver_version,temperature.gpu,clocks.sm,power.draw,ecc.errors.uncorrected.volatile.total"
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        note(asked, subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip())
    note(
        "TF32 in products, convolutions", f"{torch.backends.cuda.matmul.allow_tf32}, {torch.backends.cudnn.allow_tf32}"
    )
    size, copied = (256, 2**20) if DRY else (8192, 2**30)
    square = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    note("bf16 product", f"{2 * size**3 / milliseconds(lambda: square @ square) / 1e9:.4g} TFLOP/s of {size} x {size}")
    source = torch.zeros(copied, device=DEVICE, dtype=torch.uint8)
    target = torch.empty_like(source)
    note("copy", f"{2 * copied / milliseconds(lambda: target.copy_(source)) / 1e9:.3g} TB/s read and written")
    import nvidia.dali  # last: where it is missing, the rest stands

    note("DALI", nvidia.dali.__version__)
