"""Comparisons between nodes, on made-up answers."""

import pytest

from eyespot.cluster.doctor.compare import compare, odd_ones
from eyespot.cluster.doctor.findings import Answer


@pytest.fixture
def differences(make_context):
    """``differences({"n1": facts, ...})``: (check, node, level, found) of everything that is not ok."""

    def find(facts, *, processes=1, **fields):
        context = make_context(nodes=len(facts), processes=processes, **fields)
        answers = {node: Answer(node=node, findings=[], facts=values) for node, values in facts.items()}
        found = compare(context, answers)
        return [(f.check, f.node, f.level, f.found) for f in found if f.level != "ok"]

    return find


def test_the_odd_one_is_named_also_when_it_is_the_first():
    assert odd_ones({"n1": 1, "n2": 2, "n3": 2}) == (2, {"n1": 1})
    assert odd_ones({"n1": [1], "n2": [2]}) == ([1], {"n2": [2]})
    assert odd_ones({}) == (None, {})


def test_another_version_names_node_and_package(differences):
    usual = {"packages": {"python": "3.11.2", "torch": "2.14.1", "black": "24"}, "needed": ["python", "torch"]}
    other = {"packages": {"python": "3.11.2", "torch": "2.13.0", "black": "23"}, "needed": ["python", "torch"]}
    lacking = {"packages": {"python": "3.11.2", "black": "24"}, "needed": ["python"]}
    assert differences({"n1": usual, "n2": other, "n3": usual, "n4": lacking}) == [
        ("packages", "n2", "fail", "torch 2.13.0 (elsewhere 2.14.1)"),
        ("packages", "n4", "fail", "torch none (elsewhere 2.14.1)"),
    ]


def test_a_package_that_eyespot_does_not_need_is_a_warning(differences):
    facts = {node: {"packages": {"black": version}, "needed": []} for node, version in (("n1", "24"), ("n2", "23"))}
    assert differences(facts) == [("packages", "n2", "warn", "black 23 (elsewhere 24)")]


@pytest.mark.parametrize(
    ("name", "check", "one", "other", "shown"),
    [
        ("code", "code", "a" * 64, "b" * 64, "b" * 12),
        ("driver", "driver", "570.1", "550.2", "550.2"),
        ("cuda", "driver", "13.0", "12.4", "12.4"),
        ("manifest", "shards", "c" * 64, "d" * 64, "d" * 12),
        ("gpus", "GPUs", ["H100", "H100"], [], "none"),
    ],
)
def test_what_must_be_the_same_everywhere(differences, name, check, one, other, shown):
    ((found, node, level, text),) = differences({"n1": {name: one}, "n2": {name: one}, "n3": {name: other}})
    assert (found, node, level) == (check, "n3", "fail")
    assert f": {shown} (elsewhere " in text
    assert differences({"n1": {name: one}, "n2": {name: one}}) == []


def test_clock_skew_names_the_node_that_is_wrong(differences):
    """Two ranks per node; offsets are rank 0's view, who may be the wrong one."""
    right = {"n1": {"clocks": [0.0, 0.1, 1.9, 1.9, -0.3, -0.2]}, "n2": {}, "n3": {}}
    assert differences(right, processes=2) == []
    third = {"n1": {"clocks": [0.0, 0.0, 0.1, 0.1, -7.5, -7.5]}, "n2": {}, "n3": {}}
    assert differences(third, processes=2) == [("clocks", "n3", "warn", "7.5 s behind the other nodes' clocks")]
    first = {"n1": {"clocks": [0.0, 0.0, -90.0, -90.0, -90.1, -90.1]}, "n2": {}, "n3": {}}
    assert differences(first, processes=2) == [("clocks", "n1", "fail", "90.0 s ahead of the other nodes' clocks")]


def test_clock_skew_against_the_file_server(differences):
    facts = {"n1": {"server_ahead": 0.4, "server_unsure": 0.01}, "n2": {"server_ahead": -120.0, "server_unsure": 0.01}}
    assert differences(facts) == [("clocks", "n2", "fail", "120.0 s ahead of the file server's clock")]
    slow = {"n1": {"server_ahead": 10.0, "server_unsure": 9.0}}  # the write itself took 18 s
    assert differences(slow) == []


@pytest.mark.parametrize(
    ("free", "there", "wrong"),
    [(30, 0, False), (29, 0, True), (12, 20, False), (9, 20, True), (9, 40, True), (11, 40, False)],
)
def test_three_checkpoints_of_ten_gigabytes(differences, free, there, wrong):
    """Two are kept while a third is written; what lies there already counts, one more must always fit."""
    files = {"bytes": free * 10**9, "number": None}
    facts = {"state_bytes": 10 * 10**9, "files": files, "checkpoint_bytes": there * 10**9}
    found = differences({"n1": facts}, values={"keep_checkpoints": 2})
    assert [(check, level) for check, _, level, _ in found] == [("disk space", "fail")] * wrong


def test_inodes(differences):
    facts = {"state_bytes": 10, "files": {"bytes": 10**9, "number": 1000}}
    ((check, _, level, found),) = differences({"n1": facts}, values={"keep_checkpoints": 2})
    assert (check, level) == ("disk space", "fail")
    assert "inodes" in found
