"""A run is judged by pairs beside its random twin: the numbers are those of its vectors, and what is asked is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from captioned import make_captioned

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.joint.pair_ranks import ranks
from eyespot.eval.joint.pairs import judge_pairs, judged_ids
from eyespot.eval.joint.prompts import Wording
from eyespot.eval.joint.towers import asked_towers, embed_pairs
from eyespot.eval.joint.zero_shot import judge_zero_shot
from eyespot.eval.results.compare import compare, paired_differences
from eyespot.eval.results.result import Result
from eyespot.pretrain.distributed.process_group import World

ONE = World(rank=0, size=1, device=torch.device("cpu"))


def judged(protocol: str, target: Path, shards: Path, world: World = ONE, **changes) -> list[Result]:
    return judge_pairs(protocol, str(target), shards, **({"out": None, "seed": 0, "world": world} | changes))


def test_recall_is_that_of_the_vectors(clip_run, named_digits, tmp_path):
    results = judged("joint-retrieval", clip_run, named_digits, out=tmp_path)
    shards, ids = ShardFolder(named_digits), np.arange(150)
    for result, asked in zip(results, asked_towers(str(clip_run), 0, "joint-retrieval"), strict=True):
        sides = embed_pairs(asked, shards, ids, ONE)
        images, texts = (ranks(*sides, image_asks=each) for each in (True, False))
        assert result.accuracy == np.mean(images.first == 1) and result.share == "recall@1 (image asks)"
        scores = result.scores
        assert scores["recall@5 (text asks)"].value == pytest.approx(np.mean(texts.first <= 5))
        assert scores["median rank (image asks)"].value == np.median(images.first)
        low, high = scores["recall@10 (text asks)"].interval
        assert low <= scores["recall@10 (text asks)"].value <= high
        assert result.settings["chance"] == images.by_chance(np.arange(150), 1) and result.num_test == 150
    assert [result.role for result in results] == ["encoder", "random"]
    again = judged("joint-retrieval", clip_run, named_digits, out=tmp_path)
    assert [result.created for result in again] == [result.created for result in results]
    assert len(paired_differences(results[0], results[1:]) or []) == 1
    assert len(compare([tmp_path], protocol="joint-retrieval").pairs) == 1


def test_correspondence_of_another_seed_is_of_other_pairs(clip_run, named_digits, tmp_path):
    first, again, other = (
        judged("correspondence", clip_run, named_digits, out=tmp_path / name, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first[0].correct == again[0].correct != other[0].correct
    assert first[0].test_sha256 == again[0].test_sha256 != other[0].test_sha256
    for result in (*first, *other):
        low, high = result.scores["AUC"].interval
        assert low <= result.scores["AUC"].value <= high and result.settings == {"chance": 0.5}


def judged_on_a_rank(world: World, clip_run: Path, shards: Path, out: Path) -> list[list[Result]]:
    found = [judged(each, clip_run, shards, world, out=out) for each in ("joint-retrieval", "correspondence")]
    wording = Wording(prompts=("the digit {}",))
    return [*found, judge_zero_shot(str(clip_run), shards, wording=wording, out=out, seed=0, world=world)]


def test_any_number_of_ranks_gives_the_same(clip_run, named_digits, tmp_path, on_ranks):
    alone = judged_on_a_rank(ONE, clip_run, named_digits, tmp_path / "one")
    first, second = on_ranks(judged_on_a_rank, 2, clip_run, named_digits, tmp_path / "two")
    assert second == [[], [], []]
    for one, two in zip(alone, first, strict=True):
        assert [numbers(result) for result in one] == [numbers(result) for result in two]


def numbers(result: Result) -> Result:
    return replace(result, seconds=0.0, created="", argv=[])


def test_samples_without_a_caption_are_left_out_and_too_many_are_spread(clip_run, tmp_path):
    shards = ShardFolder(make_captioned(tmp_path / "shards"))
    views = asked_towers(str(clip_run), 0, "joint-retrieval")[0].views
    every = judged_ids(shards, views, 100)
    assert every.tolist() == [number for number in range(32) if number != 5]
    assert judged_ids(shards, views, 4).tolist() == every[[0, 7, 15, 23]].tolist()
    (result, _) = judged("joint-retrieval", clip_run, tmp_path / "shards", num_samples=4, out=tmp_path / "out")
    assert result.num_test == 4 and result.split.startswith("4 of the 32 samples")


def test_shards_without_captions_are_refused(clip_run, digits, tmp_path):
    with pytest.raises(UserError, match=r"have no \.txt beside their images; pack images with theirs"):
        judged("correspondence", clip_run, digits, out=tmp_path)
