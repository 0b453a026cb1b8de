"""What a GPU tells while it trains: by a stand-in for NVIDIA's library, which the real package loads and asks."""

import json
import math
import os
import shutil
import subprocess
import sys

import nvidia_stand_ins
import pytest
import torch

from eyespot.pretrain.watchdog.gpu_health import METRICS, GpuHealth, GpuWatch

LIBRARY = """
#include <stdlib.h>
#include <string.h>
static unsigned looks = 0;
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* address, void** handle) { return !!strcmp(address, "0000:18:00.0"); }
int nvmlDeviceGetPowerUsage(void* handle, unsigned* milliwatts) { *milliwatts = 600000 + 100000 * looks++; return 0; }
int nvmlDeviceGetTemperature(void* handle, int sensor, unsigned* celsius) { *celsius = 80 + looks; return 0; }
int nvmlDeviceGetClockInfo(void* handle, int kind, unsigned* mhz) { *mhz = 1980 - 10 * looks; return kind != 1; }
int nvmlDeviceGetCurrentClocksEventReasons(void* handle, unsigned long long* bits) {
  *bits = looks == 1 ? 0x04 : 0x44; /* a power cap is no trouble, heat is */
  return 0;
}
#ifndef CONSUMER
int nvmlDeviceGetTotalEccErrors(void* handle, int kind, int since, unsigned long long* count) {
  *count = kind == 1 && since == 0 ? 5 + looks : 0;
  return 0;
}
#endif
"""
SCRIPT = """
import json, sys
from eyespot.pretrain.watchdog.gpu_health import GpuHealth
health = GpuHealth(sys.argv[1], lambda: (30_000_000_000, 80_000_000_000))
told = []
for looks in (2, 0):
    for _ in range(looks):
        health.look()
    told.append(health.close_interval())
health.close()
health.look()
print(json.dumps(told))
"""
NAN = math.nan
MEMORY = [NAN, NAN, NAN, NAN, NAN, 50.0, 0.0]
"""Where nothing but the memory is known."""


def told(folder, address="0000:18:00.0", library=LIBRARY):
    if shutil.which("gcc") is None:
        pytest.skip("no compiler for the stand-in library")
    if library:
        nvidia_stand_ins.library(folder, "libnvidia-ml.so.1", library)
    env = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", SCRIPT, address], env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def same(found, expected):
    return found == pytest.approx(expected, nan_ok=True)


def test_figures_of_two_looks_and_of_none(tmp_path):
    pytest.importorskip("pynvml")
    first, second = told(tmp_path)
    assert same(first, [650.0, 82.0, 1960.0, 0.5, 2.0, 50.0, 0x40])
    assert same(second, [NAN, NAN, NAN, NAN, 2.0, 50.0, 0.0])


def test_a_gpu_that_does_not_know_a_figure_tells_the_others(tmp_path):
    pytest.importorskip("pynvml")
    assert same(told(tmp_path, library="#define CONSUMER" + LIBRARY)[0], [650.0, 82.0, 1960.0, 0.5, NAN, 50.0, 0x40])


@pytest.mark.parametrize("library", [LIBRARY, ""])
def test_no_library_and_another_gpu_cost_nothing(tmp_path, library):
    assert all(same(found, MEMORY) for found in told(tmp_path, "0000:99:00.0", library))


def test_on_a_cpu_nothing_is_asked_or_imported():
    watch = GpuWatch(GpuHealth.of(torch.device("cpu")), ["rank 0"])
    watch.health.look()
    assert watch.close_interval() == ({}, [])
    watch.health.close()


def test_figures_of_all_ranks_become_one_and_each_trouble_is_said_once():
    watch = GpuWatch(GpuHealth(None, None), ["rank 0 (n1)", "rank 1 (n2)"])
    cool, hot = [600.0, 60.0, 1980.0, 0.0, 0.0, 70.0, 0.0], [700.0, 88.0, 1200.0, 0.75, 0.0, 71.0, 0xC0]
    metrics, said = watch.judge(torch.tensor([cool, hot]))
    assert metrics == dict(zip(METRICS, [650.0, 88.0, 1200.0, 0.75, 0.0, 71.0], strict=True))
    why = "hw thermal slowdown, hw power brake slowdown"
    assert said == [f"rank 1 (n2): its GPU is slowed down 75% of the time: {why}; 88 °C at most"]
    assert watch.judge(torch.tensor([cool, hot]))[1] == []
    lost = [*cool[:4], 2.0, *cool[5:]]
    assert watch.judge(torch.tensor([lost, cool]))[1] == [
        "rank 0 (n1): its GPU has had 2 memory errors (ECC) in this run that stay wrong"
    ]
    assert watch.judge(torch.tensor([lost, MEMORY]))[1] == []
    assert len(watch.judge(torch.tensor([lost, hot]))[1]) == 1, "slow again"
    assert watch.judge(torch.tensor([MEMORY, MEMORY]))[0] == {"gpu/memory_gb": 50.0}


def test_memory_of_the_whole_device_is_told_without_the_library():
    watch = GpuWatch(GpuHealth(None, lambda: (1_000_000_000, 3_500_000_000)), ["rank 0"])
    assert watch.close_interval() == ({"gpu/memory_gb": 2.5}, [])
