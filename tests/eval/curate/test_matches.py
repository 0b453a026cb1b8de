"""Every planted pair is found, for its own reason, and nothing else."""

import numpy as np
import torch

from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.curate.matches import Reason, Side, byte_matches, feature_matches, joined, picture_matches
from eyespot.eval.curate.picture_hashes import PictureHashes, picture_hashes
from eyespot.eval.search.row_file import RowFile, Rows
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def pairs(matches):
    return set(zip(matches.left.tolist(), matches.right.tolist(), strict=True))


def found_on(world, path, cache, mirrored=True):
    shards = ShardFolder.find(path)
    side = Side(shards=shards, ids=np.arange(shards.manifest.num_samples))
    pictures = picture_hashes(shards, side.ids, cache, world)
    same = byte_matches(side, None, world)
    near = picture_matches(pictures, None, bits=6, least=0.9, mirrored=mirrored, world=world)
    columns = zip(near.left.tolist(), near.right.tolist(), near.reason.tolist(), strict=True)
    return pairs(same), pairs(near), {(a, b): Reason(reason).title for a, b, reason in columns}


def test_planted_pairs(planted, tmp_path, on_ranks):
    shards, names, copied = planted
    same, near, reasons = found_on(ALONE, shards.path, tmp_path)

    def of(change):
        return {tuple(sorted((names[f"{number:04d}"], names[f"{change}-{number:04d}"]))) for number in copied[change]}

    assert same == of("same")
    third = tuple(sorted((names["same-0003"], names["jpeg-0003"])))  # which a scene was copied to twice
    assert near <= of("same") | of("jpeg") | of("smaller") | of("mirrored") | {third}
    assert {pair for pair in near if reasons[pair] == "mirrored"} == of("mirrored")
    heads = {pair for pair in of("jpeg") if names["0003"] not in pair} | of("smaller") | of("same")
    assert near >= heads and near & {third, *of("jpeg")} > heads & of("jpeg")
    assert on_ranks(found_on, 2, shards.path, tmp_path) == [(same, near, reasons)] * 2
    _, plain, _ = found_on(ALONE, shards.path, tmp_path, mirrored=False)
    assert plain == near - of("mirrored")


def test_between_two_sides(planted, tmp_path):
    shards, names, copied = planted
    copies = np.array(sorted(number for name, number in names.items() if "-" in name))
    own = np.setdiff1d(np.arange(shards.manifest.num_samples), copies)
    left, right = Side(shards=shards, ids=own), Side(shards=shards, ids=copies)
    same = byte_matches(left, right, ALONE)
    assert len(pairs(same)) == len(copied["same"])
    pictures = [picture_hashes(shards, side.ids, tmp_path, ALONE) for side in (left, right)]
    near = picture_matches(*pictures, bits=6, least=0.9, mirrored=True, world=ALONE)
    met = {(own[a], copies[b]) for a, b in pairs(near)}
    for change, numbers in copied.items():
        for number in numbers:
            assert any(a == names[f"{number:04d}"] for a, _ in met), (change, number)


def test_a_thousand_copies_are_a_thousand_pairs(tmp_path):
    """And pictures that share the hash alone are none."""
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 768), dtype=np.uint8)
    np.save(tmp_path / "thumb.npy", np.concatenate([np.tile(one, (1000, 1)), np.tile(other, (500, 1))]))
    hashes = np.full((1500, 2), 7, np.uint64)
    hashes[:, 1] = ~hashes[:, 0]
    known = {"thumbs": RowFile(tmp_path / "thumb.npy"), "ids": np.arange(1500), "flat": np.zeros(1500, bool)}
    pictures = PictureHashes(hashes=hashes, **known)
    found = picture_matches(pictures, None, bits=6, least=0.9, mirrored=False, world=ALONE)
    assert pairs(found) == {(0, copy) for copy in range(1, 1000)} | {(1000, copy) for copy in range(1001, 1500)}
    assert set(found.reason.tolist()) == {Reason.SAME_HASH}
    pictures.flat[:] = True
    assert not pairs(picture_matches(pictures, None, bits=6, least=0.9, mirrored=True, world=ALONE))


def test_features(tmp_path):
    rows = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    rows[150] = rows[20] * 3
    np.save(tmp_path / "rows.npy", rows)
    found, exact = feature_matches(Rows(RowFile(tmp_path / "rows.npy")), None, cosine=0.999, seed=0, world=ALONE)
    assert pairs(found) == {(20, 150)} and exact and found.score[0] > 0.9999
    both = joined([found, found])
    assert both.left.tolist() == [20, 20] and joined([]).left.dtype == np.int64
