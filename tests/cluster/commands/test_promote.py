"""eyespot promote as a person calls it; tests/eval/release/test_registry.py lets it move an alias."""

import pytest

from eyespot.cluster.cli import main


def test_wrong_words(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for words, answer in (
        (["digits", "3"], "--alias"),
        (["digits", "--alias", "production"], "VERSION"),
        (["digits", "3", "--alias", "production"], "models:/digits/3: which MLflow server"),
        (["digits", "@candidate", "--alias", "production"], "models:/digits@candidate: which MLflow server"),
        (["digits", "newest", "--alias", "production"], "write it as models:/NAME@ALIAS"),
    ):
        assert main(["promote", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert answer in line
