"""Results in a real MLflow server and a real SQLite store: children of their run, each once, whatever dies."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_server import Server
from released_runs import content, write_run
from result_files import some_result, write

from eyespot.cluster.cli import main
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.release.fetch import fetched
from eyespot.eval.release.registry import DIGEST_TAG as RELEASE_TAG
from eyespot.eval.release.registry import register, set_alias
from eyespot.eval.release.write import release
from eyespot.eval.results.mlflow_children import track_results
from eyespot.pretrain.tracking.mirrors import sync
from eyespot.pretrain.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def no_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def trained(run_dir: Path) -> Path:
    """A run that was logged offline."""
    tracker = Tracker(run_dir, run_key=f"key-{run_dir.name}", name=run_dir.name, params={}, tags={}, uri="none")
    tracker.log(1, {"loss": 0.5})
    tracker.close("FINISHED")
    return run_dir


def parent_and_children(uri: str, run_key: str, tag: str = "eyespot.result_key") -> tuple[Run, list[Run]]:
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (parent,) = client.search_runs(experiments, f"tags.`eyespot.run_key` = '{run_key}'")
    children = client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return parent, sorted(children, key=lambda child: child.data.tags[tag])


def test_children_of_their_run_on_a_server(server: Server, tmp_path: Path):
    run_dir = trained(tmp_path / "served")
    sync(run_dir, server.uri)
    results = [some_result(), some_result(key="b2", protocol="linear", accuracy=0.8, origin={"seed": 0}, role="random")]
    assert track_results(run_dir, results, server.uri) == 2
    assert track_results(run_dir, [*results, some_result(key="c3")], server.uri) == 1
    _, children = parent_and_children(server.uri, "key-served")
    assert [child.data.tags["eyespot.result_key"] for child in children] == ["a1", "b2", "c3"]
    first, second, _ = children
    assert (first.info.run_name, first.info.status) == ("knn on digits: mae_tiny, step 12", "FINISHED")
    assert first.info.end_time - first.info.start_time == 1500
    wanted = {"accuracy": 0.9, "accuracy_low": 0.6, "accuracy_high": 0.98, "validation": 0.85}
    assert first.data.metrics == wanted
    (point,) = MlflowClient(server.uri).get_metric_history(first.info.run_id, "accuracy")
    assert (point.step, point.timestamp) == (12, 1767323045000)
    params = {"protocol": "knn", "data": "digits", "checkpoint": "step-00000012", "step": "12", "subject": "encoder"}
    assert params.items() <= first.data.params.items() and first.data.params["settings.k"] == "20.0"
    assert second.data.metrics["accuracy"] == 0.8 and second.data.params["subject"] == "random"


def test_a_person_sees_the_run_and_its_evaluation(server: Server, tmp_path: Path, browser: Browser):
    run_dir = trained(tmp_path / "looked-at")
    sync(run_dir, server.uri)
    track_results(run_dir, [some_result()], server.uri)
    parent, _ = parent_and_children(server.uri, "key-looked-at")
    address = f"{server.uri}/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}"
    browser.open(address, width=1600)
    browser.wait_for("document.body.innerText.includes('knn on digits: mae_tiny, step 12')", 60)
    assert "looked-at" in browser.text() and "train/loss\n0.5" in browser.text()
    browser.wait_for("document.body.innerText.includes('Training runs')", 60)
    assert "eyespot\nRuns\nlooked-at" in browser.text()  # of an evaluation: Evaluations
    browser.run("[...document.links].find(link => link.innerText.startsWith('knn on digits')).click()")
    browser.wait_for("document.body.innerText.includes('accuracy_low')", 60)
    assert "accuracy\n0.9" in browser.text()
    assert [address for address in browser.requests if not address.startswith(server.uri)] == []


def test_a_child_that_a_kill_left_half_is_completed(tmp_path: Path):
    run_dir = trained(tmp_path / "half")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sync(run_dir)
    client = MlflowClient(uri)
    parent, _ = parent_and_children(uri, "key-half")
    tags = {"mlflow.parentRunId": parent.info.run_id, "eyespot.result_key": "a1"}
    half = client.create_run(parent.info.experiment_id, tags=tags)
    client.log_param(half.info.run_id, "protocol", "knn")
    assert track_results(run_dir, [some_result()]) == 1
    _, (child,) = parent_and_children(uri, "key-half")
    assert child.info.run_id == half.info.run_id and child.info.status == "FINISHED"
    assert child.data.metrics["accuracy"] == 0.9 and child.data.params["data"] == "digits"


def test_the_same_result_of_two_runs_is_a_child_of_each(tmp_path: Path):
    """Random weights and raw pixels have the same key wherever they are judged."""
    for name in ("one", "two"):
        sync(trained(tmp_path / name))
        assert track_results(tmp_path / name, [some_result()]) == 1
    for name in ("one", "two"):
        assert len(parent_and_children(f"sqlite:///{tmp_path}/mlflow.db", f"key-{name}")[1]) == 1


def test_what_could_not_be_sent_comes_with_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run_dir = trained(tmp_path / "late")
    with pytest.raises(UserError, match=r"does not have the run late yet; .*eyespot sync"):
        track_results(run_dir, [some_result()])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://me:hunter2@127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(Outage, match=r"MLflow at http://\*\*\*@127.*eyespot sync") as error:
            track_results(run_dir, [some_result()], dead)
    assert "hunter2" not in str(error.value) and "\n" not in str(error.value)
    assert track_results(run_dir, [some_result()], "none") == 0
    write(run_dir, "a.json", some_result())
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for lines, num_results in ((1, 1), (0, 0)):
        assert main(["sync", str(run_dir)]) == 0
        assert capsys.readouterr().out == (
            f"{plural(lines, 'line')} of metrics and {plural(num_results, 'result')} sent to {uri}\n"
        )
    assert len(parent_and_children(uri, "key-late")[1]) == 1


def test_the_command_tracks_what_it_judged(
    run_dir: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    trained(run_dir)
    words = ["eval", "knn", str(run_dir), str(digits), "--device", "cpu"]
    assert main(words) == 0
    assert "eyespot: warning: MLflow at sqlite:///" in capsys.readouterr().err
    sync(run_dir)
    assert main(words) == 0 and main(words) == 0
    assert "warning" not in capsys.readouterr().err
    _, children = parent_and_children(f"sqlite:///{run_dir.parent}/mlflow.db", f"key-{run_dir.name}")
    assert sorted(child.data.params["subject"] for child in children) == ["encoder", "pixels", "random"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    assert main(words) == 0
    assert "warning" not in capsys.readouterr().err


def test_a_release_in_the_registry_of_a_server(server: Server, tmp_path: Path):
    run_dir = trained(write_run(tmp_path / "released"))
    sync(run_dir, server.uri)
    folder = release(run_dir, tmp_path / "release", license="mit")
    found = register(folder, run_dir, "digits", server.uri)
    assert set_alias(found, "production", server.uri) is None
    pulled = fetched("models:/digits@production", tmp_path / "pulled", uri=server.uri)
    assert content(pulled) == content(folder)
    parent, (child,) = parent_and_children(server.uri, "key-released", RELEASE_TAG)
    assert child.data.tags[RELEASE_TAG] == found.digest and child.data.tags["mlflow.parentRunId"] == parent.info.run_id
