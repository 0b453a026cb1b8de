import errno
import io
import json
import math
from pathlib import Path

import pytest

from eyespot.pretrain.tracking.metrics_file import append, cut_torn_line, decode, encode, read_metrics


def test_a_line_is_strict_json_and_keeps_every_bit():
    values = {
        "step": 3,
        "loss": 0.1 + 0.2,
        "tiny": 5e-324,
        "nan": math.nan,
        "up": math.inf,
        "down": -math.inf,
        "t": "x",
    }
    line = encode(values)

    def refuse(word: str):
        raise AssertionError(f"{word} is not JSON")

    assert line.count(b"\n") == 1 and json.loads(line, parse_constant=refuse)["up"] == "Infinity"
    back = decode(line)
    assert back is not None and math.isnan(back.pop("nan"))
    assert back == {key: value for key, value in values.items() if key != "nan"}


@pytest.mark.parametrize("line", [b"", b"{", b"[1]", b'{"loss": 1}', b"\0\0\0", b"\xff\xfe", b'{"step": "1"}'])
def test_what_is_not_a_line(line: bytes):
    assert decode(line) is None


@pytest.mark.parametrize("whole", [b"", b'{"step": 0}\n', b'{"step": 0}\n{"step": 1}\n'])
@pytest.mark.parametrize("torn", [b"", b'{"step"', b"\0" * 200_000])
def test_cut_torn_line(tmp_path: Path, whole: bytes, torn: bytes):
    (tmp_path / "metrics.jsonl").write_bytes(whole + torn)
    cut_torn_line(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_read_metrics_leaves_out_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert list(read_metrics(tmp_path)) == []
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 0}\ndamage\n{"step": 2, "loss": "NaN"}\n{"step": 3')
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 2]
    assert "line 2 is damaged" in caplog.text


def test_a_line_is_written_whole_or_not_at_all(tmp_path):
    """A disk that becomes full takes the first part of a line without a word."""

    class FillingUp(io.FileIO):
        def write(self, data):
            if len(data) < 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data[:12])

    path = tmp_path / "metrics.jsonl"
    with FillingUp(path, "ab") as file, pytest.raises(OSError, match=r"No space left.*metrics\.jsonl"):
        append(file, b"12345678901234567890123456789\n")
    assert path.read_bytes() == b""
    with path.open("ab", buffering=0) as file:
        append(file, b"whole\n")
    assert path.read_bytes() == b"whole\n"


@pytest.mark.parametrize(
    "line",
    [b'{"step": 1, "loss": [1]}', b'{"step": 1, "loss": {"a": 1}}', b'{"step": 1, "loss": null}', b'{"step": true}',
     b'{"step": -1}', b'{"step": 1%s}' % (b"0" * 30),
     b'{"step": 1, "loss": ' + b"[" * 100_000, b'{"step": 1%s}' % (b"0" * 5000)],
)  # fmt: skip
def test_what_no_run_writes_is_no_line(line):
    assert decode(line) is None
