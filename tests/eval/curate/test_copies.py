"""Planted copies go, each for its reason; copies of a held-out set are named; ranks agree."""

import csv
import json

import numpy as np
import torch
from planted_copies import pack_scenes

from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.curate.copies import Likeness, find_copies, leak_lines, table_of
from eyespot.eval.curate.curation import Encoder, Question
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
LIKENESS = Likeness(bits=6, correlation=0.9, mirrored=True, cosine=0.9999)


def provenance(folder):
    return json.loads((folder / "provenance.json").read_text())


def asked(path, out, world, verb="duplicates"):
    shards = ShardFolder.find(path)
    start = np.arange(shards.manifest.num_samples)
    known = {"cache": None, "world": world, "seed": 0, "settings": {}}
    question = Question(verb=verb, shards=shards, start=start, out=out, **known)
    question.begin()
    return question


def duplicates_on(world, path, out):
    find_copies(asked(path, out, world), LIKENESS, None, None)
    return (out / "ids.txt").read_text(), (out / "dropped.csv").read_text()


def test_planted_duplicates(planted, tmp_path, on_ranks):
    shards, names, copied = planted
    ids, table = alone = duplicates_on(ALONE, shards.path, tmp_path / "a")
    kept, gone = set(map(int, ids.split())), list(csv.DictReader(table.splitlines()))
    groups = [{names[f"{number:04d}"]} for number in range(40)]
    for change, numbers in copied.items():
        for number in numbers:
            groups[number].add(names[f"{change}-{number:04d}"])
    assert all(len(group & kept) == 1 for group in groups) and len(kept) == 40
    for row in gone:
        assert any({int(row["sample"]), int(row["copy_of"])} <= group for group in groups)
        assert int(row["copy_of"]) in kept
    smaller = {names[f"smaller-{number:04d}"] for number in copied["smaller"]}
    assert not smaller & kept  # those with more pixels stay
    told = provenance(tmp_path / "a")["dropped"]
    assert told == {"bytes": 4, "picture": 11, "mirrored": 4} and len(gone) == 19
    assert on_ranks(duplicates_on, 2, shards.path, tmp_path / "b") == [alone] * 2


def test_leaks_are_named_one_by_one(planted, tmp_path):
    shards, names, _ = planted
    held_out = pack_scenes(tmp_path / "held", range(35, 50), {"jpeg": range(2)})
    found = find_copies(asked(shards.path, tmp_path / "out", ALONE, "leaks"), LIKENESS, None, held_out)
    kept = set(map(int, (tmp_path / "out" / "ids.txt").read_text().split()))
    expected = {names[f"{number:04d}"] for number in range(35, 40)}
    expected |= {names[name] for name in ("0000", "same-0000", "0001", "same-0001")}
    assert set(range(shards.manifest.num_samples)) - kept == expected
    lines = leak_lines(found, 4)
    assert len(lines) == 4 and all("held-out sample" in line and ".tar" in line for line in lines)
    assert [row[0] for row in table_of(found)] == sorted(expected)
    assert provenance(tmp_path / "out")["held_out"]["with_copies"] == 7


def test_features_find_what_pictures_do_not(run_dir, digits, tmp_path):
    """Of features all digits are near: a low threshold drops nearly all of them, each for one that stays."""
    encoder = Encoder.of(str(run_dir), "", tmp_path / "cache")
    question = asked(digits / "test", tmp_path / "out", ALONE)
    likeness = Likeness(bits=None, correlation=0.9, mirrored=False, cosine=0.9)
    found = find_copies(question, likeness, encoder, None)
    rows = encoder.rows(question.shards, found.left.ids, ALONE)
    unit = rows.block(0, torch.device("cpu")).double()
    alike = (unit @ unit.T >= 0.9).numpy()
    stays = found.dropped.stays(len(unit))
    left = alike[np.ix_(stays, stays)]
    assert left.sum() == stays.sum() and 0 < len(found.dropped.places) < len(unit)
    assert all(alike[a, b] for a, b in zip(found.dropped.places, found.dropped.for_whom, strict=True))
    told = provenance(tmp_path / "out")
    assert told["encoder"]["sha256"] == encoder.subject.digest() and told["features_compared"] == "all with all"
    assert set(told["dropped"]) == {"features"}
