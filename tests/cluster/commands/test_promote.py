"""From a run to production on a real MLflow server: released, registered, verified in a fresh process, promoted."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_server import Server
from released_runs import write_run

from eyespot.cluster.cli import main
from eyespot.eval.release.layout import digest_of
from eyespot.pretrain.mlflow_sync import sync
from eyespot.pretrain.tracking import Tracker


def test_from_a_run_to_production(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_dir = write_run(tmp_path / "run")
    tracker = Tracker(run_dir, run_key="key", name="run", params={}, tags={}, uri="none")
    tracker.log(1, {"loss": 0.5})
    tracker.close("FINISHED")
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        sync(run_dir)
        words = [str(run_dir), "--license", "mit", "--register", "digits"]
        assert main(["release", *words, "--alias", "candidate"]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[2:] == ["models:/digits/1 in MLflow", "models:/digits@candidate is version 1"]
        client = MlflowClient(server.uri)
        version = client.get_model_version_by_alias("digits", "candidate")
        assert version.tags == {"eyespot.release_sha256": digest_of(run_dir / "release")}
        assert main(["pull", "models:/digits@candidate", str(tmp_path / "pulled")]) == 0
        assert digest_of(tmp_path / "pulled") == digest_of(run_dir / "release")
        _damage(tmp_path / "server")
        capsys.readouterr()
        assert main(["promote", "digits", "@candidate", "--alias", "production"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "alias production: not moved: release models:/digits/1: model.safetensors is damaged" in line
        assert client.get_registered_model("digits").aliases == {"candidate": "1"}
        assert main(["promote", "digits", "9", "--alias", "production"]) == 2
        assert "not found" in capsys.readouterr().err
    finally:
        server.kill()


def _damage(server: Path) -> None:
    (path,) = server.rglob("model.safetensors")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
