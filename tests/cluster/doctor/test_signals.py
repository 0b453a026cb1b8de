import os
import signal
import subprocess
import sys
import threading

from eyespot.cluster.doctor import signals


def test_a_signal_that_comes_is_heard_and_a_late_one_kills_nothing():
    """In a process of its own, whose handlers are not ours."""
    script = """
import os, signal, threading
from eyespot.cluster.doctor.signals import Doorbell
bell = Doorbell()
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR2)).start()
print(bell.wait(5) is not None)
os.kill(os.getpid(), signal.SIGUSR2)
print("alive")
print(Doorbell().wait(0.1))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "alive", "None"], done.stderr


def test_judgement(make_context, monkeypatch):
    context, before = make_context(job="7"), signal.getsignal(signals.BELL)
    monkeypatch.setattr(signals, "SECONDS", 0.2)
    try:
        assert signals.signal_finding(context, None, None).level == "ok"
        bell = signals.Doorbell()
        refused = signals.signal_finding(context, bell, "scancel: error: Access denied")
        assert (refused.level, refused.found) == ("warn", "scancel: error: Access denied")
        assert signals.signal_finding(context, bell, "").level == "fail"
        bell = signals.Doorbell()
        os.kill(os.getpid(), signals.BELL)
        assert signals.signal_finding(context, bell, "").level == "ok"
    finally:
        signal.signal(signals.BELL, before)


def test_no_slurm_here(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert signals.ring("7").startswith("scancel cannot be run here")


def test_a_thread_cannot_listen(make_context):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(signals.signal_finding(make_context(), signals.Doorbell(), ""))
    )
    thread.start()
    thread.join()
    assert found[0].level == "ok"
    assert "not tried" in found[0].found
