import sqlite3
import sys

import pytest

from eyespot.cluster.doctor import tracking

VALUES = {"track": True, "experiment": "eyespot"}


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def one(context):
    (finding,) = tracking.tracking_findings(context, tracking.start_asking(context))
    return finding


def test_where_nothing_is_asked_nothing_is_wrong(make_context, tmp_path, monkeypatch):
    run_dir = tmp_path / "runs" / "first"
    assert one(make_context(run_dir=run_dir, values=VALUES)).found.startswith("a new file: ")
    assert "--no-track" in one(make_context(run_dir=run_dir, values={**VALUES, "track": False})).found
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    assert "is none" in one(make_context(run_dir=run_dir, values=VALUES)).found


@pytest.mark.parametrize("asked", [{"wandb": "photographs"}, {"tensorboard": True}])
def test_a_package_that_a_mirror_needs(make_context, monkeypatch, asked):
    (name,) = asked
    (finding,) = tracking.mirrors(make_context(values={**VALUES, **asked}))
    assert (finding.level, finding.found) == ("ok", name)
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    (finding,) = tracking.mirrors(make_context(values={**VALUES, **asked}))
    assert (finding.level, finding.found) == ("fail", f"{name}: the package is not installed")
    assert finding.fix == f"pip install 'eyespot[{name}]', or leave it out"
    assert next(iter(tracking.mirrors(make_context(values=VALUES)))).level == "ok"


def test_a_damaged_database_does_not_stop_a_run_that_is_under_way(make_context, tmp_path):
    """It would stop a new one, like the dead server of tests/test_slurm_doctor.py."""
    with sqlite3.connect(tmp_path / "mlflow.db") as other:
        other.execute("create table alembic_version (version_num text)")
        other.execute("insert into alembic_version values ('of another program')")
    finding = one(make_context(run_dir=tmp_path / "run", values=VALUES, under_way=True, seconds=240))
    assert finding.level == "warn"
    assert "mlflow.db: " in finding.found
    assert "eyespot sync" in finding.fix
