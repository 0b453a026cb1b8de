import json
from pathlib import Path

import pytest

from eyespot.pretrain.tracking.mirror import Mirror, Writer, brief, step_of
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord


class CopyWriter(Writer):
    """A place that is a file beside the run: a copy of metrics.jsonl, whose size is the mark."""

    name = "copy"

    def __init__(self, path: Path, fails: int = 0) -> None:
        self.path, self.place, self.fails = path, str(path), fails
        self.told: list[str] = []
        self.taken: list[str] = []

    def open(self, record: MlflowRecord) -> int:
        self.path.touch()
        return self.path.stat().st_size

    def write(self, lines: list[bytes], offset: int) -> None:
        with self.path.open("ab") as file:
            file.write(b"".join(lines))
        assert self.path.stat().st_size == offset
        if self.fails:
            self.fails -= 1
            raise OSError("no room")

    def tell(self, record: MlflowRecord) -> None:
        self.told.append(record.status)

    def lacking(self, pictures: list[Path]) -> list[Path]:
        return [path for path in pictures if path.name not in self.taken]

    def picture(self, path: Path) -> None:
        self.taken.append(path.name)


def run_of(folder: Path, num_lines: int) -> Path:
    MlflowRecord(run_key="k", name="n", experiment="e").write(folder)
    lines = [
        json.dumps({"step": step, "time": 1.5, **{f"m{n}": n / 7 for n in range(40)}}) for step in range(num_lines)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 99')
    return folder


def test_whole_lines_once_however_often_it_fails(tmp_path: Path):
    run_dir = run_of(tmp_path, 100)
    mirror, told = Mirror(run_dir, writer := CopyWriter(tmp_path / "copy", fails=2)), []
    for _ in range(2):
        with pytest.raises(OSError, match="no room"):
            mirror.push()
    mirror.push(lambda done, total: told.append((done, total)))
    whole = (run_dir / "metrics.jsonl").read_bytes()
    assert writer.path.read_bytes() == whole[: whole.rindex(b"\n") + 1] and mirror.push() == 0
    assert len(told) > 1 and told[-1] == (len(whole) - 11, len(whole)) and set(writer.told) == {"RUNNING"}


def test_pictures_that_lay_there_and_those_that_come(tmp_path: Path):
    run_dir = run_of(tmp_path, 1)
    (run_dir / "pictures").mkdir()
    for name in ("a.png", ".half.png"):
        (run_dir / "pictures" / name).touch()
    mirror = Mirror(run_dir, writer := CopyWriter(tmp_path / "copy"))
    mirror.push()
    (run_dir / "pictures" / "b.png").touch()
    for name in ("b.png", "gone.png"):
        mirror.add_picture(name)
    mirror.push()
    assert writer.taken == ["a.png", "b.png"]


def test_what_is_said_of_errors_and_pictures():
    try:
        try:
            raise ValueError("http://me:secret@host\nis away")
        except ValueError as error:
            raise OSError("outer") from error
    except OSError as error:
        assert brief(error) == "ValueError: http://***@host is away"
    assert [step_of(Path(name)) for name in ("step-00000012.png", "step-x.png", "a.png")] == [12, None, None]
