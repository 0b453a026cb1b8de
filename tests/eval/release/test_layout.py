"""What a release folder holds, and that nothing else is taken for one. Damage to whole releases: test_verify.py."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.layout import (
    FILES,
    MAX_TEXT_BYTES,
    REQUIRED,
    SUMS,
    check_files,
    digest_of,
    parse_sums,
    read_json,
    settle,
    sha256,
    write_sums,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every required file, with content that only this layout looks at."""
    folder = tmp_path / "release"
    folder.mkdir()
    for name in REQUIRED:
        (folder / name).write_text(f"{{}} {name}")
    write_sums(folder)
    return folder


def test_sums_are_those_of_the_standard_library_and_of_coreutils(folder):
    for name in REQUIRED:
        assert sha256(folder / name) == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert parse_sums((folder / SUMS).read_text(), "it") == {name: sha256(folder / name) for name in REQUIRED}
    assert digest_of(folder) == hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder, check=True, capture_output=True)


def test_the_digest_does_not_depend_on_the_order_in_which_files_were_written(folder, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    for name in sorted(REQUIRED, reverse=True):
        shutil.copyfile(folder / name, again / name)
    write_sums(again)
    write_sums(again)  # which leaves itself out
    assert digest_of(again) == digest_of(folder)
    check_files(again, "it")


@pytest.mark.parametrize(
    "line",
    [
        "0" * 64 + "  evil.py",
        "0" * 63 + "  README.md",
        "0" * 64 + " *README.md",
        "F" * 64 + "  README.md",
        "0" * 64 + "  ../README.md",
        "",
    ],
)
def test_a_line_that_no_release_has(line):
    sums = "".join(f"{'0' * 64}  {name}\n" for name in REQUIRED - {"README.md"})
    with pytest.raises(UserError, match=f"^it: SHA256SUMS has the line {re.escape(repr(line))}, which no release has"):
        parse_sums(f"{sums}{line}\n", "it")


def test_a_file_listed_twice_or_not_at_all():
    sums = dict.fromkeys(sorted(REQUIRED), "0" * 64)
    text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    assert parse_sums(text, "it") == sums
    with pytest.raises(UserError, match="which no release has"):
        parse_sums(text + f"{'1' * 64}  README.md\n", "it")
    for name in REQUIRED:
        rest = "".join(line for line in text.splitlines(keepends=True) if name not in line)
        with pytest.raises(UserError, match=f"does not list {name}, so it is no whole release"):
            parse_sums(rest, "it")


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_every_file_is_held_against_the_list(folder, name):
    check_files(folder, "it")
    (folder / name).write_text("another")
    with pytest.raises(UserError, match=f"^it: {name} is damaged or swapped"):
        check_files(folder, "it")


def test_a_link_a_folder_and_a_stranger_are_refused(folder):
    (folder / "notes.txt").touch()
    with pytest.raises(UserError, match=r"notes\.txt does not belong to a release"):
        check_files(folder, "it")
    (folder / "notes.txt").unlink()
    (folder / "model.onnx").symlink_to("README.md")
    with pytest.raises(UserError, match=r"model\.onnx is no regular file"):
        check_files(folder, "it")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").write_text("not listed")
    with pytest.raises(UserError, match=r"model\.onnx is not in SHA256SUMS"):
        check_files(folder, "it")


def test_settled_files_are_everybodys_to_read(folder):
    for path in folder.iterdir():
        path.chmod(0o600)
    settle(folder)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[1]", "expected object"),
        (b'"text"', "expected object"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b"\xff{}", "cannot be read"),
    ],
)
def test_json_that_is_none(tmp_path, content, words):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"^it: config\.json:? {words}"):
        read_json(tmp_path / "config.json", "it")


def test_a_text_too_large_to_be_one_is_not_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        os.truncate(file.fileno(), MAX_TEXT_BYTES + 1)
    with pytest.raises(UserError, match="more than 16 MiB"):
        read_json(tmp_path / "config.json", "it")


def test_what_is_required_is_allowed():
    assert REQUIRED < FILES and SUMS not in FILES
