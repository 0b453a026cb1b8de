"""eyespot pull as a person calls it."""

from pathlib import Path

import pytest
from released_runs import content, write_release

from eyespot.cluster.cli import main
from eyespot.cluster.commands.pull import default_folder
from eyespot.eval.release.layout import digest_of


def test_pull(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    released = write_release(tmp_path / "digits", name="night")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["pull", str(released)]) == 0
    assert content(tmp_path / "here" / "digits") == content(released)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "night (apache-2.0), mae_tiny, step 12: verified"
    assert said[1] == f"sha256 {digest_of(released)}"
    assert said[2] == f"written to {tmp_path / 'here' / 'digits'}"  # nobody said where
    assert said[3:] == ['timm.create_model("local-dir:digits", pretrained=True)']
    for words, answer in (
        ([str(released)], "digits: exists already"),
        ([str(released), "other", "--sha256", "00"], "is another release"),
        (["absent"], "no such folder or archive"),
        (["models:/digits@production", "other", "--uri", "none"], "which MLflow server"),
    ):
        assert main(["pull", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert answer in line
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["digits"]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://host/a/digits.tar.gz?token=3", "digits"),
        ("https://host/a/digits/", "digits"),
        ("models:/digits@production", "digits"),
        ("models:/digits/3", "digits"),
        ("hf://lab/digits", "digits"),
        ("hf://lab/digits@next/one", "digits"),
        ("releases/first.zip", "first"),
        ("https://host", "host"),
    ],
)
def test_what_the_folder_is_called(address: str, name: str):
    assert default_folder(address) == Path(name)
