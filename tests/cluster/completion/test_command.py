"""``eyespot completion`` as a person and as a shell call it."""

import subprocess
import sys

import pytest

from eyespot.cluster.cli import main
from eyespot.cluster.completion.scripts import SCRIPTS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_prints_a_script_and_nothing_else(index, shell, capsys):
    assert main(["completion", shell]) == 0
    assert capsys.readouterr() == (SCRIPTS[shell], "")


def test_without_an_index_it_makes_one_first(first_call, index):
    _, out, err = first_call
    assert out == SCRIPTS["bash"] and "looking up" in err
    assert index.is_fresh and "mae_tiny" in index.recipes


def test_wrong_words(capsys, tmp_path, monkeypatch):
    assert main(["completion"]) == 2 and "usage: eyespot completion" in capsys.readouterr().out
    assert main(["completion", "csh"]) == 2
    assert "shell 'csh': choose one of bash, zsh, fish" in capsys.readouterr().err
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert main(["completion", "--refresh"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_tab_imports_nothing_heavy(index):
    script = (
        "import sys; from eyespot.cluster.cli import main;"
        "main(['completion', '--words', 'pretrain', 'mae_tiny', '--']);"
        "print(sorted({'torch', 'numpy', 'tyro', 'timm', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--optim.lr\n" in done.stdout and done.stdout.endswith("\n[]\n")
