"""Releases in the registry of a real MLflow store: a version each, however often they are registered."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from released_runs import content, copy_of, write_run

from eyespot.cluster.cli import main
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.eval.release.fetch import cached, fetched
from eyespot.eval.release.layout import digest_of
from eyespot.eval.release.registry import DIGEST_TAG, check, find, register, set_alias
from eyespot.pretrain.tracking.mirrors import sync
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord
from eyespot.pretrain.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that MLflow has."""
    run_dir = write_run(tmp_path_factory.mktemp("store") / "run")
    tracker = Tracker(run_dir, run_key="key", name="run", params={}, tags={}, uri="none")
    tracker.log(1, {"loss": 0.5})
    tracker.close("FINISHED")
    sync(run_dir, uri(run_dir))
    return run_dir


def uri(run_dir: Path) -> str:
    return f"sqlite:///{run_dir.parent}/mlflow.db"


@pytest.fixture(autouse=True)
def no_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_register_and_pull(run_dir: Path, released: Path, other: Path, tmp_path: Path):
    first, again, second = (register(folder, run_dir, "digits", uri(run_dir)) for folder in (released, released, other))
    assert (first.version, again.version, second.version) == ("1", "1", "2")
    assert first.digest == digest_of(released) and first.address == "models:/digits/1"
    client = MlflowClient(uri(run_dir))
    holder = client.get_run(client.get_model_version("digits", "1").run_id)
    parent = client.get_run(holder.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["eyespot.run_key"] == "key" and holder.data.tags[DIGEST_TAG] == first.digest
    assert holder.info.status == "FINISHED"
    assert set_alias(first, "production", uri(run_dir)) is None
    assert set_alias(second, "production", uri(run_dir)) == "1"
    assert find("models:/digits@production", uri(run_dir)) == second
    pulled = fetched("models:/digits@production", tmp_path / "pulled", uri=uri(run_dir))
    assert content(pulled) == content(other)
    assert [path.name for path in tmp_path.iterdir()] == ["pulled"]


def test_artifacts_that_were_changed_on_the_server(run_dir: Path, released: Path, other: Path, tmp_path: Path):
    """Each by itself is a release that verifies: only the tag tells."""
    found = register(released, run_dir, "changed", uri(run_dir))
    (place,) = (run_dir.parent / "mlartifacts").rglob(f"{_holder(run_dir, found.version)}/artifacts/model/data/release")
    for path in other.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"is another release: .* the registry's tag says"):
        fetched(found.address, tmp_path / "pulled", uri=uri(run_dir))
    assert not list(tmp_path.iterdir())


def test_a_version_that_holds_the_bare_release(run_dir: Path, released: Path, tmp_path: Path):
    """As older versions of eyespot registered it."""
    client = MlflowClient(uri(run_dir))
    holder = client.create_run("1")
    client.log_artifacts(holder.info.run_id, str(released), "release")
    client.create_registered_model("old")
    tags = {DIGEST_TAG: digest_of(released)}
    client.create_model_version("old", f"runs:/{holder.info.run_id}/release", holder.info.run_id, tags=tags)
    assert register(released, run_dir, "old", uri(run_dir)).version == "1"
    assert content(fetched("models:/old/1", tmp_path / "pulled", uri=uri(run_dir))) == content(released)


def test_a_registration_that_broke_off_is_made_whole(run_dir: Path, released: Path, monkeypatch: pytest.MonkeyPatch):
    def reset(*words: object, **options: object) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as broken, pytest.raises(Outage, match="--register mended: MLflow at"):
        broken.setattr(MlflowClient, "update_model_version", reset)
        register(released, run_dir, "mended", uri(run_dir))
    assert register(released, run_dir, "mended", uri(run_dir)).version == "1"
    assert "## Numbers" in MlflowClient(uri(run_dir)).get_model_version("mended", "1").description


def _holder(run_dir: Path, version: str) -> str:
    return MlflowClient(uri(run_dir)).get_model_version("changed", version).run_id


def test_from_a_run_to_production(run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """As a person does it: released, registered, verified in a fresh process; what does not verify is not promoted."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(run_dir))
    assert main(["release", str(run_dir), "--license", "mit", "--register", "night", "--alias", "candidate"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[2:] == ["models:/night/1 in MLflow", "models:/night@candidate is version 1"]
    client = MlflowClient(uri(run_dir))
    version = client.get_model_version_by_alias("night", "candidate")
    assert version.tags[DIGEST_TAG] == digest_of(run_dir / "release") and version.tags["license"] == "mit"
    assert version.description.startswith("# ") and "## Numbers" in version.description
    (weights,) = (run_dir.parent / "mlartifacts").rglob(
        f"{version.run_id}/artifacts/model/data/release/model.safetensors"
    )
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert main(["promote", "night", "@candidate", "--alias", "production"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    wanted = "eyespot: alias production: not moved: release models:/night/1: model.safetensors is damaged or swapped"
    assert line.startswith(wanted)
    aliases = client.get_registered_model("night").aliases
    assert {alias: str(number) for alias, number in aliases.items()} == {"candidate": "1"}  # SQL stores answer a number
    assert main(["promote", "night", "9", "--alias", "production"]) == 2
    assert "not found" in capsys.readouterr().err


def test_the_cache(run_dir: Path, other: Path, tmp_path: Path):
    found = register(other, run_dir, "cached", uri(run_dir))
    folder = cached(found.address, tmp_path, uri(run_dir))
    stamp = (folder / "config.json").stat().st_mtime_ns
    assert folder == cached(found.address, tmp_path, uri(run_dir)) == tmp_path / found.digest
    assert (folder / "config.json").stat().st_mtime_ns == stamp
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config.json is damaged"):
        cached(found.address, tmp_path, uri(run_dir))


def test_what_the_registry_does_not_have(run_dir: Path, released: Path, tmp_path: Path):
    place = uri(run_dir)
    client = MlflowClient(place)
    client.create_registered_model("foreign")
    client.create_model_version("foreign", source=str(copy_of(released, tmp_path / "elsewhere")))
    for address, words in (
        ("models:/digits@nobody", "alias nobody not found"),
        ("models:/absent/1", "not found"),
        ("models:/digits", "write it as models:/NAME@ALIAS"),
        ("models:/foreign/1", "has no tag .* so eyespot did not release it"),
    ):
        with pytest.raises(UserError, match=words) as error:
            find(address, place)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="which MLflow server"):
        find("models:/digits/1")


def test_a_server_that_does_not_answer_is_no_wrong_input(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Outage, match=r"models:/digits/1: MLflow at http://\*\*\*@127"):
        find("models:/digits/1", "http://me:hunter22@127.0.0.1:9")


def test_what_is_not_registered(run_dir: Path, tmp_path: Path):
    check("digits", run_dir, uri(run_dir))
    with pytest.raises(UserError, match="--register 'a/b': must consist of"):
        check("a/b", run_dir, uri(run_dir))
    with pytest.raises(UserError, match="which MLflow server"):
        check("digits", run_dir, "none")
    MlflowRecord(run_key="unknown", name="late", experiment="eyespot").write(tmp_path)
    with pytest.raises(UserError, match="does not have the run late yet; bring it with eyespot sync"):
        check("digits", tmp_path, uri(run_dir))
