"""What docs/own_recipes.md shows is done as it stands there."""

import re
import shlex
import sys
from pathlib import Path

from eyespot.cluster.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "own_recipes.md").read_text()
SMALL = ["--steps", "2", "--optim.warmup-steps", "1", "--no-track", "--device", "cpu"]


def test_the_page(tmp_path, digits, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    pack, train, judge = re.findall(r"^eyespot (shards|pretrain|eval)( .*)$", PAGE, re.MULTILINE)
    assert "digits digits" in pack[1]
    (tmp_path / "digits").symlink_to(digits)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "my_file.py").write_text(code)
    assert main([train[0], *shlex.split(train[1]), *SMALL]) == 0
    sys.modules.pop("my_package.my_file")
    words = [judge[0], *shlex.split(judge[1])]
    trust = words.index("--trust-recipe")
    assert main(words[:trust]) == 2
    assert "add --trust-recipe my_package.my_file" in capsys.readouterr().err
    assert main(["report", "run"]) == 0
    assert "code that is not eyespot" in (tmp_path / "run" / "report.html").read_text()
    assert "my_package.my_file" not in sys.modules
    assert main(words) == 0
