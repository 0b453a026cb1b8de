import io

from eyespot.cluster.doctor.findings import Finding, Verdict
from eyespot.cluster.doctor.page import print_verdict
from eyespot.data_pipeline.console import Console


def finding(check, node, level="ok", found="fine", fix="", seconds=0.1):
    return Finding(check=check, node=node, level=level, found=found, fix=fix, seconds=seconds)


def lines(findings):
    text = io.StringIO()
    print_verdict(Verdict(findings=findings, seconds=3.25), "doctor", Console(file=text, width=100))
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def test_one_row_per_check_the_worst_node_named_and_fixes_below():
    wrong = {"found": "tar [a] missing", "fix": "copy it"}
    said = lines(
        [
            finding("MLflow", "n1", seconds=2.0),
            *(finding("shards", node, "fail", **wrong) for node in ("n2", "n3")),
            finding("shards", "n1", seconds=7.0),
            *(finding("code", node) for node in ("n1", "n2", "n3")),
            finding("own", "n2", "warn", "slow", "hurry"),
        ]
    )
    assert said == [
        "doctor",
        "check node s found",
        "ok code all 0.1 fine",
        "FAIL shards n2 (1 more) 7.0 tar [a] missing",
        "ok MLflow n1 2.0 fine",
        "warn own n2 0.1 slow",
        "FAIL shards (n2, n3): tar [a] missing",
        "copy it",
        "warn own (n2): slow",
        "hurry",
        "doctor: 2 failed: the run must not start (3.2 s)",
    ]


def test_all_well():
    assert lines([finding("code", "n1")])[-1] == "doctor: the run can start (3.2 s)"
