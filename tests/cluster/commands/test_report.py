"""eyespot report as a person calls it; what the page says: tests/eval/report."""

from pathlib import Path

import pytest
from released_runs import write_run

from eyespot.cluster.cli import main


@pytest.fixture
def run_dir(tmp_path) -> Path:
    return write_run(tmp_path / "first")


def test_one_run_gets_the_page_into_its_folder(run_dir, capsys):
    assert main(["report", str(run_dir), "--no-look"]) == 0
    path = run_dir / "report.html"
    assert capsys.readouterr().out == f"{path}\n"
    page = path.read_text()
    assert "mae_tiny" in page and "90.0" in page and 'src="http' not in page


def test_several_runs_get_it_here_or_where_one_says(run_dir, tmp_path, monkeypatch, capsys):
    other = write_run(tmp_path / "second", seed=2)
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run_dir), str(other), "--no-look"]) == 0
    assert Path(capsys.readouterr().out.strip()) == tmp_path / "report.html"
    assert main(["report", str(run_dir), str(other), "--no-look", "--out", "both.html"]) == 0
    assert Path(capsys.readouterr().out.strip()) == tmp_path / "both.html"
    assert "first" in Path("both.html").read_text() and "second" in Path("both.html").read_text()
    assert not (run_dir / "report.html").exists()


def test_a_folder_for_the_page_is_no_file(run_dir, tmp_path, capsys):
    assert main(["report", str(run_dir), "--no-look", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(("words", "message"), [([], "run"), (["EMPTY"], "not a run folder"), (9 * ["RUN"], "8")])
def test_wrong_input_is_one_line(words, message, run_dir, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": str(tmp_path / "empty"), "RUN": str(run_dir)}
    assert main(["report", *(places[word] for word in words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("eyespot: ") and said.count("\n") == 1 and message in said.lower()
