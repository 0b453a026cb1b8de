"""Binds a process to the CPU cores of the memory node that its GPU hangs on: no copy crosses to another socket."""

import os
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")


def bind_near(pci_address: str, num_processes: int, root: Path = ROOT) -> str:
    """Binds all threads of this process, and those that they start, to the cores near its GPU.

    Only where that chooses something: the machine has several memory nodes, and nobody has chosen cores. A job's
    cgroup gives cores and chooses none; an affinity narrower than it was set by somebody (``srun --cpu-bind``, taskset,
    numactl) and stays. It stays, too, where a process's share of the near cores is less than its share of all.

    Args:
        pci_address: of the GPU, "0000:18:00.0".
        num_processes: of this run on this node.
        root: of the file system that holds sysfs and the cgroups.

    Returns:
        What was done and why, in words; empty where the machine does not tell its nodes apart.
    """
    allowed = os.sched_getaffinity(0)
    near = parse_cores(_read(root / f"sys/bus/pci/devices/{pci_address}/local_cpulist")) & allowed
    nodes = [cores for cores in nodes_of(root) if cores & allowed]
    if len(nodes) < 2 or not near or near == allowed:
        return ""
    if given := given_cores(root) - allowed:
        return f"cores {listed(allowed)} were chosen by the launcher ({len(given)} more were to be had): not bound anew"
    sharing = max(1, min(num_processes, _gpus_near(pci_address, root)))
    if len(near) // sharing < len(allowed) // num_processes:
        return f"only {len(near)} of {len(allowed)} cores are near GPU {pci_address}, for {sharing}: not bound"
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # one that has just ended
            os.sched_setaffinity(int(thread.name), near)
    node = _read(root / f"sys/bus/pci/devices/{pci_address}/numa_node").strip()
    return f"bound to {len(near)} cores of memory node {node}, near GPU {pci_address}: {listed(near)}"


def _gpus_near(pci_address: str, root: Path) -> int:
    """How many NVIDIA GPUs have the same cores near them."""
    devices = root / "sys/bus/pci/devices"
    own = _read(devices / pci_address / "local_cpulist")
    found = [path for path in devices.glob("*") if _read(path / "vendor").strip() == "0x10de"]
    return sum(
        _read(path / "class").startswith(("0x0300", "0x0302")) and _read(path / "local_cpulist") == own
        for path in found
    )


def nodes_of(root: Path = ROOT) -> list[set[int]]:
    """The cores of each memory node that has some."""
    paths = sorted((root / "sys/devices/system/node").glob("node[0-9]*/cpulist"))
    return [cores for path in paths if (cores := parse_cores(_read(path)))]


def given_cores(root: Path = ROOT) -> set[int]:
    """The cores that this process may choose among: those that are on, within its cgroup."""
    given = parse_cores(_read(root / "sys/devices/system/cpu/online"))
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # the second version has one tree
            given &= _of_cgroup(root / "sys/fs/cgroup", path, "cpuset.cpus.effective") or given
        elif "cpuset" in controllers.split(","):
            given &= _of_cgroup(root / "sys/fs/cgroup/cpuset", path, "cpuset.effective_cpus") or given
    return given


def parse_cores(text: str) -> set[int]:
    """Linux's lists: "0-2,7" -> {0, 1, 2, 7}."""
    cores: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            cores.update(range(int(first), int(last or first) + 1))
    return cores


def listed(cores: set[int]) -> str:
    """The other way round: {0, 1, 2, 7} -> "0-2,7"."""
    parts: list[list[int]] = []
    for core in sorted(cores):
        if parts and core == parts[-1][-1] + 1:
            parts[-1][1:] = [core]
        else:
            parts.append([core])
    return ",".join("-".join(map(str, part)) for part in parts)


def _of_cgroup(top: Path, path: str, name: str) -> set[int]:
    """From the group itself, or the nearest above it that says: a container may see its own as the top."""
    folder = top / path.lstrip("/")
    while True:
        if cores := parse_cores(_read(folder / name)):
            return cores
        if folder == top or top not in folder.parents:
            return set()
        folder = folder.parent


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
