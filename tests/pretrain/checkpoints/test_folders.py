"""Which checkpoints of a run are complete, and which is the newest."""

import subprocess
import sys

from eyespot.pretrain.checkpoints.folders import complete, folder_of, newest, step_of


def test_complete_ones_in_order(tmp_path):
    assert complete(tmp_path) == [] and newest(tmp_path) is None
    for step in (30, 2, 100):
        folder_of(tmp_path, step).mkdir(parents=True)
        (folder_of(tmp_path, step) / "meta.json").write_text("{}")
    folder_of(tmp_path, 200).mkdir()  # its tensors alone
    partial = folder_of(tmp_path, 300).with_suffix(".tmp")
    partial.mkdir()
    (partial / "meta.json").write_text("{}")
    for name in (
        "step-00000100-old",
        "step-00000030.bak",
        "step-zz",
        "step-",
    ):  # somebody's copies: neither read nor deleted
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / "meta.json").write_text("{}")
    assert complete(tmp_path) == [folder_of(tmp_path, step) for step in (2, 30, 100)]
    assert [step_of(folder) for folder in complete(tmp_path)] == [2, 30, 100]
    assert newest(tmp_path) == tmp_path / "checkpoints" / "step-00000100"


def test_they_are_found_without_torch():
    code = "import sys, eyespot.pretrain.checkpoints.folders; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
