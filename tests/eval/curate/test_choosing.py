"""Balance and retrieval: that the right samples come out, on one rank and on two."""

import json

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.curate.choosing import balance, default_sizes, retrieve
from eyespot.eval.curate.curation import Encoder, Question
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def provenance(folder):
    return json.loads((folder / "provenance.json").read_text())


def asked(path, out, world, verb="balance", start=None):
    shards = ShardFolder.find(path)
    start = np.arange(shards.manifest.num_samples) if start is None else start
    question = Question(verb=verb, shards=shards, start=start, out=out, cache=None, world=world, seed=0, settings={})
    question.begin()
    return question


def balanced_on(world, run_dir, path, out):
    found = balance(asked(path, out, world), Encoder.of(str(run_dir), "", out / "cache"), (30, 5), 1, 100)
    return found.kept.tolist(), (out / "ids.txt").read_text()


def test_a_balanced_sample(run_dir, digits, tmp_path, on_ranks):
    kept, ids = alone = balanced_on(ALONE, run_dir, digits / "test", tmp_path / "a")
    assert kept == [int(line) for line in ids.split()] and len(kept) == 100
    told = provenance(tmp_path / "a")
    assert told["dropped"] == {"too many alike": 259} and len(told["mean_cosines"]) == 2
    assert told["mean_cosines"][0] > 0.5
    assert on_ranks(balanced_on, 2, run_dir, digits / "test", tmp_path / "b") == [alone] * 2


@pytest.mark.parametrize(
    ("sizes", "keep", "message"),
    [
        ((30, 30), 5, "--clusters 30 30: each level must have fewer clusters"),
        ((400, 5), 5, "from 359 samples at most"),
        ((5, 1), 5, "to 2 at least"),
        ((9, 8, 7, 6, 5, 4, 3), 5, "must name 1 to 6 levels"),
        ((30, 5), 360, "--keep 360: must lie between 1 and 359"),
    ],
)
def test_what_cannot_be_asked(run_dir, digits, tmp_path, sizes, keep, message):
    encoder = Encoder.of(str(run_dir), "", run_dir / "cache")
    with pytest.raises(UserError, match=message):
        balance(asked(digits / "test", tmp_path, ALONE), encoder, sizes, 1, keep)


def test_default_sizes():
    assert default_sizes(10**6) == (50_000, 2500) and default_sizes(900) == (45, 2) and default_sizes(100) == (5,)


def retrieved_on(world, run_dir, path, out, **how):
    question = asked(path / "test", out, world, "retrieve", np.arange(10, 359))
    encoder, seeds = Encoder.of(str(run_dir), "", out / "cache"), ShardFolder.find(path / "train")
    found = retrieve(question, encoder, seeds, np.arange(0, 1400, 100), **how)
    return found.neighbours.tolist(), found.cosines.tolist(), found.kept.tolist()


def test_neighbours_of_seeds(run_dir, digits, tmp_path):
    how = {"each": 5, "keep": None, "cosine": -1.0}
    neighbours, cosines, kept = retrieved_on(ALONE, run_dir, digits, tmp_path / "a", **how)
    encoder = Encoder.of(str(run_dir), "", tmp_path / "a" / "cache")

    def unit(part):
        shards = ShardFolder.find(digits / part)
        rows = encoder.rows(shards, np.arange(shards.manifest.num_samples), ALONE)
        return rows.take(np.arange(rows.count), torch.device("cpu")).double().numpy()

    products = unit("train")[0:1400:100] @ unit("test")[10:].T
    np.testing.assert_allclose(cosines, -np.sort(-products, axis=1)[:, :5], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(products, np.array(neighbours) - 10, 1), cosines, atol=1e-6)
    assert kept == sorted({sample for row in neighbours for sample in row}) and min(kept) >= 10
    limited = retrieved_on(ALONE, run_dir, digits, tmp_path / "b", each=5, keep=8, cosine=-1.0)[2]
    firsts = {row[0] for row in neighbours}
    assert len(limited) == 8 and (set(limited) <= firsts or firsts <= set(limited))
    near = float(np.median(cosines))
    chosen = {s for row, c in zip(neighbours, cosines, strict=True) for s, n in zip(row, c, strict=True) if n >= near}
    assert retrieved_on(ALONE, run_dir, digits, tmp_path / "c", each=5, keep=None, cosine=near)[2] == sorted(chosen)
    assert provenance(tmp_path / "c")["dropped"]["no neighbour of a seed"] == 349 - len(chosen)
    with pytest.raises(UserError, match="--neighbours 350: more than the 349 samples to choose from; ask for fewer"):
        retrieved_on(ALONE, run_dir, digits, tmp_path / "d", each=350, keep=None, cosine=-1.0)
