import json

import pytest

from eyespot.cluster.commands import doctor
from eyespot.data_pipeline.errors import UserError


def test_help_names_the_flags(capsys):
    assert doctor.main(["--help"]) == 0
    assert "--ranks" in capsys.readouterr().out


def test_this_machine(capsys):
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert "doctor: the run can start" in said
    assert "packages" in said


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--ranks", "0"], "ranks 0: must be 1 or more"),
        (["mae_tinny"], "perhaps you meant mae_tiny"),
        (["mae_tiny", "--stps", "3"], "--stps"),
        (["--rank", "3"], "--rank"),
    ],
)
def test_wrong_words(argv, words):
    with pytest.raises(UserError, match=words):
        doctor.main(argv)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"no run\.json inside"):
        doctor.main([str(tmp_path)])


def test_a_recipe_on_this_machine_and_the_run_folder_it_names(digits, tmp_path, capsys):
    """All of it: the rank's process decodes an image; too many ranks for the batch are found; nothing is left."""
    flags = ["--data.shards", str(digits), "--run-dir", str(tmp_path / "run"), "--device", "cpu", "--ranks", "512"]
    assert doctor.main(["mae_tiny", *flags, "--json", "--timeout-seconds", "300"]) == 2
    verdict = json.loads(capsys.readouterr().out)
    found = {finding["check"]: finding for finding in verdict["findings"]}
    wrong = {check for check, finding in found.items() if finding["level"] != "ok"}
    assert wrong - {"limits"} == {"samples"}  # 512 ranks need many open files
    assert "256 cannot be dealt to 512 ranks" in found["samples"]["found"]
    assert "one image decoded on cpu" in found["data pipeline"]["found"]
    assert "3 checkpoints of 4.3 MB" in found["disk space"]["found"]
    assert list(tmp_path.iterdir()) == []
