"""Stand-ins for what NVIDIA puts on a machine, each with its faults: nvidia-smi, a driver, a torch for CPUs."""

import subprocess
from pathlib import Path

GPU = """<gpu id="00000000:18:00.0"><product_name>NVIDIA H100 80GB HBM3</product_name><uuid>GPU-{number}</uuid>
<fb_memory_usage><total>81559 MiB</total><used>1 MiB</used><free>81000 MiB</free></fb_memory_usage>
<temperature><gpu_temp>{celsius} C</gpu_temp></temperature>
<ecc_errors><volatile><dram_uncorrectable>{ecc}</dram_uncorrectable></volatile></ecc_errors>
<clocks_event_reasons><clocks_event_reason_hw_thermal_slowdown>{slowed}</clocks_event_reason_hw_thermal_slowdown>
</clocks_event_reasons></gpu>"""
HEALTHY = {"driver": "580.82.07", "cuda": "13.0", "celsius": "31", "ecc": "0", "slowed": "Not Active"}
FAULTS: dict[str, dict[str, str]] = {
    "healthy": {},
    "old driver": {"driver": "550.54.15", "cuda": "12.4"},
    "ECC errors": {"ecc": "3"},
    "throttled": {"slowed": "Active", "celsius": "88"},
}


def nvidia_smi(folder: Path, fault: str, count: int = 1, way: str = "NV18") -> None:
    """Writes ``folder/nvidia-smi``, which speaks of so many H100s with this one of FAULTS, or finds "no driver".

    It knows ``-L``, ``topo -m``, which says that one way leads between any two, and ``-q -x``.
    """
    script = folder / "nvidia-smi"
    if fault == "no driver":
        script.write_text('#!/bin/sh\necho "NVIDIA-SMI couldn\'t communicate with the NVIDIA driver."\nexit 9\n')
    else:
        values = {**HEALTHY, **FAULTS[fault]}
        gpus = "".join(GPU.format(number=number + 1, **values) for number in range(count))
        versions = "<driver_version>{driver}</driver_version><cuda_version>{cuda}</cuda_version>".format(**values)
        (folder / "smi.xml").write_text(f"<nvidia_smi_log>{versions}{gpus}</nvidia_smi_log>")
        (folder / "smi.topo").write_text(topology(count, way))
        listed = "".join(f"GPU {i}: NVIDIA H100 80GB HBM3 (UUID: GPU-{i + 1})\n" for i in range(count))
        (folder / "smi.list").write_text(listed)
        answers = f"-L) cat '{folder}/smi.list';; topo) cat '{folder}/smi.topo';; *) cat '{folder}/smi.xml';;"
        script.write_text(f'#!/bin/sh\ncase "$1" in {answers} esac\n')
    script.chmod(0o755)


def topology(count: int, way: str) -> str:
    """The table of ``nvidia-smi topo -m`` for GPUs between any two of which this way leads, and one network device."""
    names = [f"GPU{number}" for number in range(count)]
    lines = ["\t" + "\t".join([f"\x1b[4m{names[0]}", *names[1:], "NIC0", "CPU Affinity", "NUMA Affinity\x1b[0m"])]
    for row, name in enumerate(names):
        ways = [" X " if row == column else way for column in range(count)]
        lines.append("\t".join([name, *ways, "PXB", "0-31", "0"]))
    lines.append("NIC0\t" + "\t".join(["PXB"] * count) + "\t X \t\t")
    return "\n".join([*lines, "", "Legend:", "", "  X    = Self", "  SYS  = Connection traversing PCIe as well as ..."])


OLD_DRIVER = """
#include <string.h>
int cuDriverGetVersion(int* version) { *version = 12040; return 0; }
int cuInit(unsigned flags) { return 0; }
static int other(void) { return 35; } /* the driver is older than the runtime */
int cuGetProcAddress_v2(const char* name, void** found, int version, unsigned long long flags, void* status) {
  if (!strcmp(name, "cuDriverGetVersion")) *found = cuDriverGetVersion;
  else if (!strcmp(name, "cuInit")) *found = cuInit;
  else if (!*name || !strcmp(name, "cuGetProcAddress")) *found = cuGetProcAddress_v2;
  else *found = other;
  return 0;
}
"""


def old_libcuda(folder: Path) -> None:
    """Compiles ``folder/libcuda.so.1``: a driver of CUDA 12.4, for which CUDA 13's own runtime finds itself too new."""
    library(folder, "libcuda.so.1", OLD_DRIVER)


def library(folder: Path, name: str, code: str) -> None:
    """Compiles a shared library from C."""
    (folder / f"{name}.c").write_text(code)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", name, f"{name}.c"], cwd=folder, check=True)


CPU_WHEEL = """
import torch
del torch._C._cuda_getDeviceCount  # how torch itself knows a build without CUDA
torch.version.cuda = None
"""


def cpu_only_torch(folder: Path) -> None:
    """Writes ``folder/sitecustomize.py``: where it is on the path, Python finds a torch without CUDA."""
    (folder / "sitecustomize.py").write_text(CPU_WHEEL)
