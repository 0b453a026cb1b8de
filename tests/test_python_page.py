"""What docs/python.md shows runs as it stands there, one block after the other."""

import logging
import re
from pathlib import Path
from typing import Any

from eyespot.pretrain.watchdog.time_breakdown import PARTS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text()


def test_the_page(tmp_path, digits, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("eyespot"), "handlers", [])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits").symlink_to(digits)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    said = capsys.readouterr().out
    assert "done 1." in said or "done 0." in said, "the loss after 30 steps"
    assert "(360, 64) cls [0, 1, 2]" in said or "(359, 64) cls [0, 1, 2]" in said
    assert "(2, 64)" in said and "raw pixels" in said and str(tmp_path / "runs" / "first" / "report.html") in said
    formats = (ROOT / "docs" / "reference" / "file_formats.md").read_text()
    told = set(re.findall(r"`([\w/]+)`", formats)) | {f"time_share/{part}" for part in PARTS}
    assert set(names["trained"].metrics()[-1]) <= told
    assert names["position"]["samples_consumed"] == 2 * 32
