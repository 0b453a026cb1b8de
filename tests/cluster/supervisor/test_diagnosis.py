"""Who is to blame, told from reports alone."""

import json
from collections.abc import Sequence

import pytest

from eyespot.cluster.processes import Place, Words
from eyespot.cluster.status.records import Attempt, Beat
from eyespot.cluster.supervisor.diagnosis import CUT_OFF, Report, diagnose, diagnose_lost
from eyespot.pretrain.distributed.devices import unusable

PLACE = Place(index=0, nodes=("a", "b"), processes=2, job="7", requeues=0)
HEARD = "rank 2 (b, process 5) does not answer (dead, frozen or cut off)"


def another(*ranks: int, text: str = HEARD) -> Words:
    return Words(kind="another rank", text=text, ranks=ranks)


def crash(text: str) -> Words:
    return Words(kind="crash", text=text)


def report(
    node: str,
    codes: tuple[int | None, ...],
    words: tuple[Words | None, ...] = (None, None),
    killed: tuple[int, ...] = (),
) -> Report:
    return Report(node=node, codes=codes, words=words, killed=killed)


def found(*reports: Report, index: int = 0) -> tuple[str, str, tuple[str, ...], bool]:
    place = Place(index=index, nodes=PLACE.nodes, processes=2, job="7", requeues=0)
    diagnosis = diagnose(place, {one.node: one for one in reports})
    return diagnosis.outcome, diagnosis.why, diagnosis.blamed, diagnosis.again


def test_a_report_survives_the_journey():
    one = report("b", (1, -9), (another(3), None), killed=(3,))
    assert Report.of(json.loads(json.dumps(one.values()))) == one


@pytest.mark.parametrize(
    ("codes", "outcome"), [((0, 0, 0, 0), "done"), ((75, 75, 75, 75), "stopped"), ((0, 75, 0, 0), "stopped")]
)
def test_good_ends(codes: tuple[int, ...], outcome: str):
    assert found(report("a", codes[:2]), report("b", codes[2:])) == (
        outcome,
        "done" if outcome == "done" else "stopped by a signal",
        (),
        False,
    )


def test_a_rank_killed_by_a_signal_whatever_the_others_say():
    others = report("a", (1, 1), (another(2), another(2)))
    assert found(others, report("b", (-9, 1), (None, another(2)))) == (
        "failed",
        "rank 2 on b died of SIGKILL",
        ("b",),
        True,
    )


def test_a_signal_that_people_send_blames_no_node():
    assert found(report("a", (1, 1), (another(2),) * 2), report("b", (-15, 1)))[1:3] == (
        "rank 2 on b died of SIGTERM",
        (),
    )


def test_a_rank_that_the_supervisor_killed_is_not_the_cause():
    killed = report("a", (1, -9), (another(2), None), killed=(1,))
    assert found(killed, report("b", (-11, 1))) == ("failed", "rank 2 on b died of SIGSEGV", ("b",), True)
    assert found(report("a", (0, -9), killed=(1,)), report("b", (0, 0)))[1:3] == (
        "rank 1 on a did not end and was killed",
        (),
    )


@pytest.mark.parametrize(
    ("text", "blamed"),
    [
        ("ValueError: what a pity", ()),
        ("AcceleratorError: CUDA error: unspecified launch failure", ("b",)),
        ("RuntimeError: No CUDA GPUs are available", ("b",)),
        (f"Outage: {unusable('auto', '/dev/nvidia0', 'Unexpected error. Error 802')}", ("b",)),
        ("RuntimeError: NCCL communicator was aborted", ("b",)),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", ()),
        ("RuntimeError: CUDA error: device-side assert triggered", ()),
    ],
)
def test_an_exception_is_its_program_s_unless_it_is_the_machine_s(text: str, blamed: tuple[str, ...]):
    heard = another(3, text=f"rank 3 failed: {text}")
    reports = report("a", (1, 1), (heard, heard)), report("b", (1, 1), (heard, crash(text)))
    assert found(*reports) == ("failed", f"rank 3 on b failed: {text}", blamed, True)


def test_a_rank_that_hangs_is_named_by_the_others():
    assert found(report("a", (1, 1), (another(2), another(2))), report("b", (1, 1))) == ("failed", HEARD, ("b",), True)


def test_a_node_that_does_not_report():
    assert found(report("a", (1, 1), (another(2), another(2)))) == ("failed", "b stopped answering", ("b",), True)


def test_where_nodes_accuse_each_other_whoever_judges_is_believed():
    reports = report("a", (1, 1), (another(2, 3),) * 2), report("b", (1, 1), (another(0, 1, text="a is silent"),) * 2)
    assert found(*reports) == ("failed", HEARD, ("b",), True)
    assert found(*reports, index=1) == ("failed", "a is silent", ("a",), True)


def test_what_happens_on_every_node_is_no_node_s_fault():
    assert found(report("a", (-9, 1)), report("b", (1, -9)))[2:] == ((), True)


@pytest.mark.parametrize(("kind", "code", "outcome"), [("wrong input", 2, "wrong input"), ("training", 1, "failed")])
def test_what_would_come_again(kind: str, code: int, outcome: str):
    words = Words(kind=kind, text="so it is")
    both = report("a", (1, code), (another(1), words)), report("b", (1, 1), (another(1), another(1)))
    assert found(*both) == (outcome, "so it is", (), False)
    assert found(both[0]) == (outcome, "so it is", (), False)  # without waiting for b


def test_wrong_input_without_words():
    assert found(report("a", (2, 2)), report("b", (2, 2)))[0] == "wrong input"


def lost(
    times: dict[str, float], down: Sequence[str] = (), states: dict[str, str] | None = None
) -> tuple[str, tuple[str, ...]]:
    attempt = Attempt(number=1, job="7", requeues=1, nodes=("a", "b"), start=100.0)
    beats = {
        node: Beat(node=node, job="7", requeues=1, time=time, state=(states or {}).get(node, "the ranks run"))
        for node, time in times.items()
    }
    diagnosis = diagnose_lost(attempt, beats, down)
    assert diagnosis.again
    return diagnosis.why, diagnosis.blamed


def test_an_attempt_without_an_end():
    assert lost({"a": 200.0, "b": 150.0}) == ("b stopped answering", ("b",))
    assert lost({"a": 200.0}) == ("b stopped answering", ("b",))
    assert lost({"a": 200.0, "b": 201.0}, down=["a"]) == ("a stopped answering", ("a",))
    assert lost({"a": 200.0, "b": 201.0}, states={"b": CUT_OFF}) == ("b stopped answering", ("b",))
    assert lost({"a": 200.0, "b": 201.0}, down=["a", "b"])[1] == ()  # the power of all
    assert lost({"a": 200.0, "b": 195.0}) == ("killed, all nodes at once (SLURM, or a lost connection to it)", ())
    assert lost({})[1] == ()
    saving = dict.fromkeys("ab", "stopping: the ranks save")
    assert lost({"a": 200.0, "b": 195.0}, states=saving)[0].startswith("killed by SLURM before its checkpoint")


def test_beats_of_another_start_count_for_nothing():
    attempt = Attempt(number=2, job="8", requeues=0, nodes=("a", "b"), start=100.0)
    old = {node: Beat(node=node, job="7", requeues=0, time=time, state="") for node, time in (("a", 200.0), ("b", 5.0))}
    assert diagnose_lost(attempt, old, []).blamed == ()
