"""eyespot curate as a person calls it, on one process and on two."""

import subprocess
import sys

import pytest
from left_runs import leave_run, small_run
from planted_copies import pack_scenes

from eyespot.cluster.cli import main
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return pack_scenes(tmp_path_factory.mktemp("scenes"), range(12), {"jpeg": range(4)}).path


def ids(folder):
    return [int(line) for line in (folder / "ids.txt").read_text().split()]


def test_duplicates_then_retrieve(scenes, tmp_path, capsys):
    assert main(["curate", "duplicates", str(scenes), str(tmp_path / "unique"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "12 of 16 samples (dropped: picture 4)" in said and "report.html" in said
    again = ["curate", "duplicates", str(scenes), str(tmp_path / "unique"), "--mirrored", "--device", "cpu"]
    assert main(again) == 2 and "holds what another curation chose" in capsys.readouterr().err


def test_a_chain_by_features_of_a_run(scenes, tmp_path, capsys):
    run = small_run("mae_tiny")
    run.data.shards = scenes
    model = str(leave_run(run, "mae_tiny", tmp_path / "run", scenes))
    known = ["--model", model, "--device", "cpu"]
    (tmp_path / "ids.txt").write_text("".join(f"{sample}\n" for sample in range(10)))
    chosen = ["--ids", str(tmp_path / "ids.txt"), "--keep", "6", "--clusters", "4", "2", *known]
    assert main(["curate", "balance", str(scenes), str(tmp_path / "even"), *chosen]) == 0
    assert "6 of 10 samples (dropped: too many alike 4)" in capsys.readouterr().out
    assert len(ids(tmp_path / "even")) == 6 and max(ids(tmp_path / "even")) < 10
    asked = ["--seed-ids", str(tmp_path / "even" / "ids.txt"), "--neighbours", "1", *known]
    assert main(["curate", "retrieve", str(scenes), str(tmp_path / "near"), *asked]) == 0
    assert ids(tmp_path / "near") == ids(tmp_path / "even")  # each is its own nearest
    assert "fewer than" not in capsys.readouterr().out
    assert main(["curate", "retrieve", str(scenes), str(tmp_path / "few"), *asked, "--keep", "7"]) == 0
    assert ids(tmp_path / "few") == ids(tmp_path / "even")
    assert "fewer than --keep 7: raise --neighbours 1\n" in capsys.readouterr().out
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m"]
    words = ["eyespot", "curate", "balance", str(scenes), str(tmp_path / "two"), *chosen]
    subprocess.run([*command, *words], check=True, capture_output=True)
    assert ids(tmp_path / "two") == ids(tmp_path / "even")


def test_leaks_of_the_test_split(digits, tmp_path, capsys):
    assert main(["curate", "leaks", str(digits), str(tmp_path / "out"), "--no-report", "--bits", "0"]) == 0
    said = capsys.readouterr().out
    assert f"of {ShardFolder.find(digits).manifest.num_samples:,} samples" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("curate cluster x y", "cluster"),
        ("curate duplicates /nowhere OUT", "no such folder"),
        ("curate duplicates SHARDS OUT --bits 17", "--bits 17: must lie between 0 and 16"),
        ("curate duplicates SHARDS OUT --ids /nowhere", "--ids /nowhere: cannot be read"),
        ("curate leaks SHARDS OUT", "--held-out: SHARDS has no split test or val"),
        ("curate leaks SHARDS OUT --held-out SHARDS", "is what is learned from"),
        ("curate balance SHARDS OUT --keep 3", "--model"),
        ("curate balance SHARDS OUT --keep 0 --model x", "--keep 0: must be 1 or more"),
        ("curate balance SHARDS OUT --keep 3 --model nothing_like_it", "nor a name that timm knows"),
        ("curate retrieve SHARDS OUT --model x", "--seeds, --seed-ids: name"),
    ],
)
def test_what_is_wrong_is_one_line(scenes, tmp_path, capsys, words, message):
    said = {"SHARDS": str(scenes), "OUT": str(tmp_path / "out")}
    assert main([said.get(word, word) for word in words.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message.replace("SHARDS", str(scenes)) in error[0]


def test_no_words(capsys):
    assert main(["curate"]) == 2 and "retrieve SHARDS OUT" in capsys.readouterr().out
    assert main(["curate", "--help"]) == 0
