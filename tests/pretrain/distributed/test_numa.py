"""Cores near a GPU, on made-up trees of sysfs; the process that is bound is a real one."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from eyespot.pretrain.distributed import numa

GPU = "0000:18:00.0"


@pytest.fixture
def cores():
    """The first two that this process has; all of them are given back at the end."""
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("one core: nothing to choose")
    yield sorted(before)[:2]
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # one that has just ended
            os.sched_setaffinity(int(thread.name), before)


@pytest.fixture
def tree(tmp_path, cores):
    """Two memory nodes with half of this process's cores each; the GPU hangs on the second, with one core."""
    every = os.sched_getaffinity(0)
    write(tmp_path, "sys/devices/system/cpu/online", numa.listed(every))
    write(tmp_path, "sys/devices/system/node/node0/cpulist", numa.listed(every - {cores[1]}))
    write(tmp_path, "sys/devices/system/node/node1/cpulist", str(cores[1]))
    write(tmp_path, "sys/devices/system/node/node2/cpulist", "")  # memory without cores
    write(tmp_path, f"sys/bus/pci/devices/{GPU}/local_cpulist", str(cores[1]))
    write(tmp_path, f"sys/bus/pci/devices/{GPU}/numa_node", "1\n")
    return tmp_path


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_all_threads_are_bound_near_the_gpu_and_it_is_said(tree, cores):
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        said = numa.bind_near(GPU, len(os.sched_getaffinity(0)), tree)
        assert said == f"bound to 1 cores of memory node 1, near GPU {GPU}: {cores[1]}"
        assert os.sched_getaffinity(0) == os.sched_getaffinity(other.native_id) == {cores[1]}
    finally:
        done.set()
        other.join()


def test_where_all_gpus_hang_on_one_of_two_sockets_nobody_is_bound(tree, cores):
    """Each would have its share of one socket, and the other would be idle."""
    for address in (GPU, "0000:19:00.0"):
        for name, text in (("vendor", "0x10de\n"), ("class", "0x030200\n"), ("local_cpulist", str(cores[1]))):
            write(tree, f"sys/bus/pci/devices/{address}/{name}", text)
    before = os.sched_getaffinity(0)
    assert numa.bind_near(GPU, len(before), tree).endswith(f"are near GPU {GPU}, for 2: not bound")
    assert os.sched_getaffinity(0) == before


def test_cores_that_somebody_chose_stay(tree, cores):
    write(tree, "sys/devices/system/cpu/online", "0-4095")
    before = os.sched_getaffinity(0)
    assert "were chosen by the launcher" in numa.bind_near(GPU, 64, tree)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("version", [1, 2])
def test_the_cores_of_a_jobs_cgroup_are_not_chosen_ones(tree, version):
    """As SLURM's: the machine has more, the step's group gives these."""
    every = os.sched_getaffinity(0)
    write(tree, "sys/devices/system/cpu/online", "0-4095")
    if version == 2:
        write(tree, "proc/self/cgroup", "0::/system.slice/job_7/step_0/user/task_0\n")
        write(tree, "sys/fs/cgroup/system.slice/job_7/step_0/cpuset.cpus.effective", numa.listed(every))
        write(tree, "sys/fs/cgroup/cpuset.cpus.effective", "0-4095")
    else:
        write(tree, "proc/self/cgroup", "9:memory:/\n4:cpuset:/slurm/job_7\n")
        write(tree, "sys/fs/cgroup/cpuset/slurm/job_7/cpuset.effective_cpus", numa.listed(every))
    assert numa.given_cores(tree) == every
    assert numa.bind_near(GPU, 64, tree).startswith("bound to 1 cores")


def test_too_few_near_ones_bind_nobody(tree):
    before = os.sched_getaffinity(0)
    assert numa.bind_near(GPU, 1, tree).startswith(f"only 1 of {len(before)} cores are near GPU")
    assert os.sched_getaffinity(0) == before


def test_machines_that_tell_no_nodes_apart(tree, tmp_path):
    before = os.sched_getaffinity(0)
    assert numa.bind_near("0000:99:00.0", 64, tree) == "", "a device that is not there"
    (tree / "sys/devices/system/node/node1/cpulist").unlink()
    assert numa.bind_near(GPU, 64, tree) == ""
    assert numa.bind_near(GPU, 64, tmp_path / "nothing") == ""
    assert os.sched_getaffinity(0) == before


def test_lists_of_cores():
    for text, cores in (("0-2,7", {0, 1, 2, 7}), ("", set()), ("5", {5}), ("0-1,3-4", {0, 1, 3, 4})):
        assert numa.parse_cores(text + "\n") == cores
        assert numa.listed(cores) == text


def test_this_machine_says_which_cores_it_gives():
    assert numa.given_cores() >= os.sched_getaffinity(0)
