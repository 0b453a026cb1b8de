import json

import pytest

from eyespot.cluster.doctor.findings import Answer, Finding, Verdict
from eyespot.data_pipeline.errors import UserError

FINDINGS = [
    Finding(check="shards", node="n2", level="fail", found="one is missing", fix="copy it", seconds=0.5),
    Finding(check="clocks", node="n1", level="warn", found="late", fix="set it"),
    Finding(check="code", node="n1", level="ok", found="fine"),
    Finding(check="MLflow", node="n1", level="fail", found="dead", fix="start it"),
]


def test_a_verdict_survives_its_file_and_says_why(tmp_path):
    verdict = Verdict(findings=FINDINGS, seconds=1.5)
    verdict.write(tmp_path / "verdict.json")
    assert Verdict.read(tmp_path / "verdict.json") == verdict
    assert json.loads((tmp_path / "verdict.json").read_text())["ok"] is verdict.ok is False
    assert verdict.why == "shards (n2): one is missing; MLflow (n1): dead"


def test_a_warning_stops_nothing():
    verdict = Verdict(findings=FINDINGS[1:3])
    assert verdict.ok
    assert verdict.why == ""


def test_an_answer_survives_its_file(tmp_path):
    answer = Answer(node="n1", findings=FINDINGS, facts={"packages": {"torch": "2"}})
    answer.write(tmp_path / "n1.json")
    assert Answer.read(tmp_path / "n1.json") == answer


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"findings": [5], "seconds": 0}', '{"findings": [{}]}'])
@pytest.mark.parametrize("kind", [Answer, Verdict])
def test_what_is_no_answer_is_refused_in_one_line(tmp_path, kind, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"x\.json: "):
        kind.read(path)
