"""What to do after a stop, for every state that was measured on a real cluster."""

import pytest

from eyespot.cluster.processes import Place
from eyespot.cluster.slurm import Job
from eyespot.cluster.supervisor.requeue import RequeuePlan, after_stop


def plan(
    state: str,
    restarts: int | None,
    reason: str = "None",
    *,
    cancelled: bool = False,
    max_requeues: int = 3,
    before: int = 1,
) -> RequeuePlan:
    job = Job(
        id="7", state=state, reason=reason, nodes=("a",), num_nodes=1, restarts=restarts, seconds_left=None, start=1.0,
        exit_code="0:0", requeue=True,
    )  # fmt: skip
    place = Place(index=0, nodes=("a",), processes=1, job="7", requeues=before)
    return after_stop(job, place, cancelled=cancelled, max_requeues=max_requeues)


@pytest.mark.parametrize(
    ("state", "restarts", "reason", "do"),
    [
        ("RUNNING", 1, "None", "requeue"),  # USR1, by hand or before the time limit; preemption with a grace time
        ("COMPLETING", 1, "TimeLimit", "requeue"),
        ("COMPLETING", 2, "None", "leave"),  # requeued by hand, by preemption, for a lost node
        ("PENDING", 2, "BeginTime", "leave"),
        ("COMPLETING", 1, "None", "end"),  # scancel
        ("CANCELLED", 1, "None", "end"),
        ("RUNNING", None, "None", "requeue"),
    ],
)
def test_states(state: str, restarts: int | None, reason: str, do: str):
    assert plan(state, restarts, reason).do == do


def test_cancel_ends_it_in_every_state():
    for state, restarts in (("RUNNING", 1), ("COMPLETING", 2)):
        assert plan(state, restarts, cancelled=True) == RequeuePlan(do="end", why="cancelled")


def test_no_more_than_may_be():
    assert plan("RUNNING", 3, before=3).do == "end"
    assert "3 times" in plan("RUNNING", 3, before=3).why
    assert plan("RUNNING", 2, before=2).do == "requeue"
    assert plan("COMPLETING", 4, before=3).do == "leave"  # SLURM has done it: the next start will refuse


def test_an_answer_is_needed():
    place = Place(index=0, nodes=("a",), processes=1, job="7", requeues=0)
    assert after_stop(None, place, cancelled=False, max_requeues=3).do == "end"
