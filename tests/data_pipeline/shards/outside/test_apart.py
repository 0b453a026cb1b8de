import ctypes
import os
import signal

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.outside.apart import MEMORY, Lost, each


def work(job, alive):
    if job == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job == "loop":
        while True:
            pass
    if job == "bomb":
        return len(bytearray(MEMORY + 2**20))
    if job == "allocate":
        ctypes.pythonapi.PyMem_Malloc.restype = ctypes.c_void_p
        return ctypes.pythonapi.PyMem_Malloc(ctypes.c_size_t(MEMORY + 2**20)) is None
    if job == "odd":
        raise AttributeError("'NoneType' object\nhas no attribute")
    if job == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "full":
        raise OSError(28, "No space left on device")
    alive()
    return f"{job} done"


def test_what_crashes_or_bursts_harms_nothing_else():
    found = dict(each(["a", "bomb", "odd", "crash", "c"], work, 1, seconds=1))
    assert {name: found[name] for name in "ac"} == {name: f"{name} done" for name in "ac"}
    assert found["crash"] == "its decoder crashed (SIGSEGV)" and isinstance(found["crash"], Lost)
    assert found["odd"] == "its decoder failed: AttributeError: 'NoneType' object has no attribute"
    assert found["bomb"] == "its decoder wants more than 4 GiB of memory"


@pytest.mark.thorough
def test_what_loops_or_asks_for_memory_harms_nothing_else():
    found = dict(each(["a", "crash", "loop", "b", "bomb", "odd", "allocate", "c"], work, 2, seconds=1))
    assert {name: found[name] for name in "abc"} == {name: f"{name} done" for name in "abc"}
    assert found["loop"] == "its decoder gave no frame in 1 s of processor time" and found["allocate"] is True


def test_what_is_nothing_of_the_job_is_no_result_of_it():
    with pytest.raises(UserError, match=r"workers 1: .*SIGKILL.*memory"):
        list(each(["killed"], work, 1))
    with pytest.raises(OSError, match="No space left"):
        list(each(["full"], work, 1))
    assert list(each([], work, 3)) == []
