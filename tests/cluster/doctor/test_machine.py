import resource

import eyespot
from eyespot.cluster.doctor import machine


def one(findings):
    (finding,) = findings
    return finding


def test_versions_and_which_of_them_count(make_context):
    context = make_context()
    assert one(machine.packages(context)).level == "ok"
    assert {"python", "torch", "numpy", "jinja2"} <= set(context.facts["needed"])  # the last one by way of torch
    assert "pytest" not in context.facts["needed"]
    assert context.facts["packages"]["pytest"]
    assert context.facts["packages"]["torch"].startswith("2.")


def test_the_code_has_a_digest_of_its_text(make_context, monkeypatch, tmp_path):
    package = tmp_path / "eyespot"
    (package / "pretrain" / "objectives").mkdir(parents=True)
    (package / ".venv").mkdir()
    for name in ("__init__", "pretrain/__init__", "pretrain/objectives/mae", ".venv/other"):
        (package / f"{name}.py").write_text("one = 1\n")
    monkeypatch.setattr(eyespot, "__file__", str(package / "__init__.py"))

    def digest():
        context = make_context()
        assert one(machine.code(context)).level == "ok"
        return context.facts["code"]

    first = digest()
    (package / ".venv" / "other.py").write_text("two = 2\n")
    assert digest() == first
    (package / "pretrain" / "objectives" / "mae.py").write_text("two = 2\n")
    assert digest() != first


def test_in_a_job_the_frozen_code_must_run(make_context, tmp_path):
    (tmp_path / "cluster" / "code" / "eyespot").mkdir(parents=True)
    finding = one(machine.code(make_context(run_dir=tmp_path, job="7")))
    assert finding.level == "fail"
    assert str(tmp_path / "cluster" / "code") in finding.fix
    assert one(machine.code(make_context(run_dir=tmp_path))).level == "ok"


def test_too_few_open_files(make_context):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, before[1]), before[1]))
    try:
        few, many = (list(machine.limits(make_context(ranks=ranks))) for ranks in (8, 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "fail" not in [finding.level for finding in few]
    (failed,) = [finding for finding in many if finding.level == "fail"]
    assert failed.found == "a process may have 1024 files open; 1,000 ranks need 8512"
    assert "8512" in failed.fix


def test_little_shared_memory(make_context, monkeypatch):
    monkeypatch.setattr(machine, "SHM_BYTES", 1 << 60)
    assert [finding.level for finding in machine.limits(make_context())] == ["warn", "ok"]
