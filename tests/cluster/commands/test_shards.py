"""``eyespot shards`` as a person types it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shapes import draw_striped

from eyespot.cluster.cli import main


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    assert main(["shards", "pack", "digits", str(folder)]) == 0
    return folder


def test_pack_says_what_it_did(digits: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["shards", "pack", "digits", str(digits)]) == 0  # a second time: nothing to do, the same words
    text = capsys.readouterr().out
    assert "digits/train: digits, 1,438 images, 1,438 labels, 10 classes" in text and "359 images" in text
    assert "8 pixels" in text and "0.306" in text


def test_pack_with_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images, masks = draw_striped(tmp_path, 6)
    (masks / "3.png").unlink()
    assert main(["shards", "pack", str(images), str(tmp_path / "out"), "--masks", str(masks)]) == 0
    text = capsys.readouterr().out
    assert "masks        5, value 255 ignored; of the pixels class 0 " in text
    assert "1  no mask (a .png of the same name): 3.png" in text
    assert main(["shards", "pack", str(images), str(tmp_path / "two"), "--masks", str(tmp_path / "none")]) == 2
    assert "no such folder; it holds a PNG of class numbers for each image" in capsys.readouterr().err


def test_info_counts_the_classes(digits: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["shards", "info", str(digits / "test")]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()[-11:]
    assert heading.split()[0] == "classes"
    counts = [line.split() for line in lines]
    assert [name for _, name in counts] == list("0123456789") and sum(int(count) for count, _ in counts) == 359


def test_info_of_a_mixture_tells_shares_and_ids(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mix.toml").write_text(
        f'[sources.known]\nshards = "{digits}"\nrepeats = 1\n'
        f'[sources.other]\nshards = "{digits / "test"}"\nrepeats = 2\ncap = 300\n'
    )
    assert main(["shards", "info", str(tmp_path / "mix.toml")]) == 0
    told = capsys.readouterr().out
    assert "mixture: known 70.5594 % (1,438 samples), other 29.4406 % (300 samples)" in told
    assert f"known: {digits / 'train'}, with test/" in told and "ids          0 to 1,437\n" in told
    assert "ids          1,438 to 1,796; 300 of them are learned from" in told
    assert main(["shards", "info", f"{digits}:0.5,{digits / 'train'}:0.5"]) == 2
    assert "are the same folder" in capsys.readouterr().err


def test_verify_and_index(digits: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["shards", "verify", str(digits)]) == 0
    assert "all is well" in capsys.readouterr().out
    (digits / "test" / "shard-000000.idx").unlink()
    assert main(["shards", "verify", str(digits)]) == 2
    assert "shard-000000.idx: missing" in capsys.readouterr().out
    assert main(["shards", "index", str(digits / "test")]) == 0
    assert main(["shards", "verify", str(digits)]) == 0


def test_what_is_left_out_and_converted_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("CMYK", (9, 9)).save(tmp_path / "set" / name / "1.jpg")
    (tmp_path / "set" / "b" / "2.jpg").write_bytes(b"")
    (tmp_path / "set" / "notes.txt").write_bytes(b"")
    assert main(["shards", "pack", str(tmp_path / "set"), str(tmp_path / "out"), "--workers", "1"]) == 0
    text = capsys.readouterr().out
    assert "2 cmyk" in text and "empty file: b/2.jpg" in text
    assert "skipped      1 file that" in text and "1  not an image (.txt): notes.txt" in text
    words = ["shards", "pack", str(tmp_path / "set"), str(tmp_path / "two"), "--workers", "1", "--holdout", "0.5"]
    assert main(words) == main(["shards", "info", str(tmp_path / "two")]) == 0
    text = capsys.readouterr().out
    assert text.count("notes.txt") == 2, "once when packing, once when asked, though it is of two splits"


def test_what_can_be_read_in_two_ways_asks_and_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from PIL import Image

    folder = tmp_path / "set"
    folder.mkdir()
    names = [f"{number}.{kind}" for number in range(12) for kind in ("small.png", "jpg", "json")]
    for name in names:
        Image.new("RGB", (9, 9)).save(tmp_path / "1", "JPEG" if name.endswith("jpg") else "PNG")
        (tmp_path / name).write_bytes((tmp_path / "1").read_bytes())
    subprocess.run(["tar", "-cf", folder / "a.tar", "-C", tmp_path, *names], check=True)
    for words in (["pack", str(folder), str(tmp_path / "out")], ["index", str(folder)]):
        assert main(["shards", *words]) == 2
        assert "--image-extension jpg, or --key last-dot" in capsys.readouterr().err
        assert main(["shards", *words, "--image-extension", "jpg", "--max-pixels", "81"]) == 0
        text = capsys.readouterr().out
        assert "12 images" in text and "skipped      24 files that" in text
        assert "12  not an image (.json): a.tar/0.json, a.tar/1.json, a.tar/2.json, ..." in text
        assert "12  not the image asked for (.small.png): a.tar/0.small.png, " in text
    assert main(["shards", "info", str(tmp_path / "out")]) == 0 and "24 files that" in capsys.readouterr().out


def test_a_folder_of_photos_is_told_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.JPG").touch()
    for command in ("index", "info", "verify"):
        assert main(["shards", command, str(tmp_path / "photos")]) == 2
        told = capsys.readouterr()
        assert f"eyespot shards pack {tmp_path / 'photos'} DST" in told.out + told.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["pack", "nowhere", "out"], "source nowhere"),
        (["pack", "digits"], "DST"),
        (["pack", "digits", "out", "--max-samplez", "3"], "--max-samples"),
        (["pack", "digits", "out", "--resize", "big"], "big"),
        (["pack", "digits", "out", "--holdout", "0.2"], "holdout"),
        (["index", "nowhere"], "nowhere"),
        (["info", "nowhere"], "nowhere"),
        (["show", "nowhere", "--recipe", "mae_tiny"], "nowhere"),
        (["pakc"], "pakc"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], named: str
):
    monkeypatch.chdir(tmp_path)
    assert main(["shards", *words]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())  # nothing is left lying about


def test_wrong_input_typed_into_a_shell(tmp_path: Path):
    program = "import sys; from eyespot.cluster.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", program, "shards", "pack", "digits", "out", "--max-samplez", "3"]
    for encoding in ("utf-8", "ascii"):  # tyro draws its boxes differently
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "--max-samplez" in done.stderr and "perhaps you meant --max-samples" in done.stderr


@pytest.mark.parametrize("command", ["pack", "merge", "add", "index", "verify", "info", "show"])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["shards", command, "--help"])
    assert stop.value.code == 0 and len(capsys.readouterr().out) > 300


def test_looking_and_checking_need_no_torch(digits: Path):
    program = """
import sys
from eyespot.cluster.cli import main
assert main(["shards", "info", sys.argv[1]]) == 0
assert "nvidia.dali" not in sys.modules
assert main(["shards", "verify", sys.argv[1]]) == main(["shards", "index", sys.argv[1] + "/test"]) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, str(digits)], check=True, capture_output=True)


@pytest.mark.parametrize(
    "words", ["pack digits s3://b/f", "pack digits s3://b/f --task 0/2", "merge s3://b/f", "add s3://b/f digits"]
)
def test_nothing_is_written_to_a_store(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["shards", *words.split()]) == 2
    assert re.fullmatch(
        r"eyespot: destination s3://b/f(/\S+)?: shards are written on a disk only; name a folder there; upload it"
        r" afterwards\n", capsys.readouterr().err
    )  # fmt: skip
    assert not list(tmp_path.iterdir()), "nor into a folder that is called s3:"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("pack s3://b/f x", "source s3://b/f: is read from a disk only"),
        ("motion s3://b/f x", "shards s3://b/f: is read from a disk only"),
        ("info s3://", "s3://: incomplete; write s3://BUCKET/FOLDER"),
        ("info ftp://h/f", "ftp://h/f: no store is called ftp://"),
        ("verify ftp://h/f", "ftp://h/f: no store is called ftp://"),
        ("index ftp://h/f", "ftp://h/f: no store is called ftp://"),
        ("show ftp://h/f", "ftp://h/f: no store is called ftp://"),
    ],
)
def test_an_address_that_cannot_be_read_is_called_so(words, answer, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["shards", *words.split()]) == 2
    assert capsys.readouterr().err.startswith(f"eyespot: {answer}")
    assert not list(tmp_path.iterdir())
