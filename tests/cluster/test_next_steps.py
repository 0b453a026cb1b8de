"""The command that comes next."""

from pathlib import Path

from eyespot.cluster.next_steps import after_evaluation, after_packing, after_training, say_next


def test_commands_stand_below_each_other_on_standard_error(capsys):
    say_next((["report", Path("runs/a run")], "a page"), (["status"], "what runs"))
    done = capsys.readouterr()
    assert done.out == ""
    assert done.err.splitlines() == [
        "next: eyespot report 'runs/a run'   # a page",
        "      eyespot status                # what runs",
    ]


def test_a_name_commands_no_terminal(capsys):
    say_next((["report", Path("runs/\x1b[2J\nx")], "a page"))
    assert capsys.readouterr().err == "next: eyespot report 'runs/\\x1b[2J\\nx'   # a page\n"


def test_other_ranks_are_silent(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    say_next((["status"], "what runs"))
    assert capsys.readouterr().err == ""


def test_after_packing_the_named_sets_have_a_recipe_and_others_a_list(capsys):
    after_packing(Path("data/d"), "digits")
    assert "eyespot pretrain mae_tiny --data.shards data/d --run-dir runs/first" in capsys.readouterr().err
    after_packing(Path("data/p"), "photos")
    said = capsys.readouterr().err
    assert said.startswith("next: eyespot recipes ") and "pretrain RECIPE --data.shards data/p" in said
    after_packing(Path("data/b"), "bands", 6)
    said = capsys.readouterr().err
    assert said.startswith(
        "next: eyespot pretrain RECIPE --data.shards data/b --encoder.channels 6 --run-dir runs/first "
    )
    assert "mae, simclr or dino" in said


def test_after_training_what_fits_the_data(capsys):
    after_training(Path("run"), Path("data"), clips=False)
    assert capsys.readouterr().err.startswith("next: eyespot eval linear run data ")
    after_training(Path("run"), None, clips=True)
    assert capsys.readouterr().err.startswith("next: eyespot eval action run SHARDS ")


def test_after_training_each_student_is_asked_about(capsys):
    after_training(Path("run"), Path("data"), clips=False, students=("conv",))
    assert "eyespot eval linear run@conv data" in capsys.readouterr().err


def test_after_an_evaluation(capsys):
    after_evaluation(Path("run"), "knn", run=True, compared=True)
    assert capsys.readouterr().err.count("eyespot") == 2
    after_evaluation(Path("eval-x"), "knn", run=False, compared=True)
    assert capsys.readouterr().err.startswith("next: eyespot eval compare eval-x --protocol knn ")
    after_evaluation(Path("eval-x"), "unlabeled", run=False, compared=False)
    assert capsys.readouterr().err == ""
