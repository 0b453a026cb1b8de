"""A run is asked once about each caption that it has not seen, beside others' images and a table of counted words."""

import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from captioned import pack_named_digits
from left_runs import leave_run, small_run

from eyespot.data_pipeline.augment.views import CenterView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.captions import judge_captions, perplexity, witten_bell
from eyespot.eval.own_head import asked_of
from eyespot.eval.results.compare import paired_differences
from eyespot.eval.results.result import Result
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.objectives.virtex import VirTex

ONE = World(rank=0, size=1, device=torch.device("cpu"))
TRAIN, TEST = 40, 23


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    for split, count in (("train", TRAIN), ("test", TEST)):
        shutil.move(pack_named_digits(folder / f"of-{split}", count), folder / "both" / split)
    return folder / "both"


@pytest.fixture(scope="module")
def described(named, tmp_path_factory) -> Path:
    """A run of virtex as training leaves it after its first steps."""
    return run_of("virtex_tiny", named, tmp_path_factory.mktemp("runs") / "virtex")


def run_of(recipe: str, shards: Path, folder: Path) -> Path:
    run = small_run(recipe)
    run.data.shards = str(shards)
    return leave_run(run, recipe, folder, shards / "train")


def judged(target: Path, shards: Path, world: World = ONE, **changes) -> list[Result]:
    return judge_captions(str(target), shards, **({"out": None, "seed": 5, "world": world} | changes))


def test_perplexities_are_those_of_captions_asked_one_by_one(described, named):
    results = judged(described, named)
    assert [result.role for result in results] == ["encoder", "random"]
    whole = CenterView(resize=16, size=16)
    for result, asked in zip(results, asked_of(str(described), 5, lambda one: one.scores_captions), strict=True):
        text = asked.views.views[1]
        views = replace(asked.views, views=(whole, replace(whole, partner=True), text))
        spec = LoaderSpec(shards=ShardFolder(named / "test"), views=views, batch_size=1, seed=5)
        own, other, words, right = 0.0, 0.0, 0, 0
        for batch in make_pass(spec):
            image, elsewhere, ids = batch.views
            assert not torch.equal(image, elsewhere)
            found, count = asked.objective.caption_log_likelihood(replace(batch, views=[image, ids]))
            beside, _ = asked.objective.caption_log_likelihood(replace(batch, views=[elsewhere, ids]))
            own, other, words = own + found.item(), other + beside.item(), words + count.item()
            right += found.item() > beside.item()
        scores = {name: score.value for name, score in result.scores.items()}
        assert (result.num_correct, result.num_test, result.num_train) == (right, TEST, TRAIN)
        assert scores["perplexity"] == pytest.approx(math.exp(-own / words), rel=1e-5)
        assert scores["perplexity, others' images"] == pytest.approx(math.exp(-other / words), rel=1e-5)
        assert scores["gain, nats a token"] == pytest.approx((own - other) / words, abs=1e-5)
        assert all(low <= score.value <= high for score in result.scores.values() for low, high in [score.interval])
        assert scores["perplexity, counted words"] == pytest.approx(by_hand(named, views, words), rel=1e-9)
    assert len(paired_differences(results[0], results[1:])) == 1
    assert [result.created for result in judged(described, named)] == [result.created for result in results]


def by_hand(named: Path, views, words: int) -> float:
    """The perplexity of a table that has counted: a handwritten NAME, the digit NAME."""
    tokenizer, met = load_tokenizer("clip", 10), Counter()
    for file in sorted((named.parent / "of-train" / "source").rglob("*.txt")):
        for row in tokenizer(file.read_text().split("\n")[:2]).tolist():
            met.update(row[1 : row.index(tokenizer.end) + 1])
    total, kinds, surprise = met.total(), len(met), 0.0
    spec = LoaderSpec(shards=ShardFolder(named / "test"), views=views, batch_size=TEST, seed=5)
    asked = 0
    for row in next(iter(make_pass(spec))).views[2].tolist():
        for token in row[1 : row.index(tokenizer.end) + 1]:
            share = met[token] / (total + kinds) or kinds / (total + kinds) / (tokenizer.num_tokens - kinds)
            surprise, asked = surprise - math.log(share), asked + 1
    assert asked == words
    return math.exp(surprise / words)


def test_any_number_of_ranks_gives_the_same(described, named, tmp_path, on_ranks):
    alone = judged(described, named, out=tmp_path / "one")
    first, second = on_ranks(judged_on_a_rank, 2, described, named, tmp_path / "two")
    assert second == [] and len(first) == 2
    for ours, theirs in zip(first, alone, strict=True):
        assert (ours.key, ours.correct) == (theirs.key, theirs.correct)
        for name, score in ours.scores.items():
            assert score.value == pytest.approx(theirs.scores[name].value, rel=1e-6), name


def judged_on_a_rank(world: World, run_dir: Path, named: Path, out: Path) -> list[Result]:
    return judged(run_dir, named, world, out=out)


def test_what_foretells_no_captions_is_refused(named, tmp_path):
    for target in (run_of("clip_tiny", named, tmp_path / "clip"), Path("test_vit")):
        with pytest.raises(UserError, match="foretells no captions; captions judges runs of methods such as virtex"):
            judged(target, named)


def test_both_parts_have_captions(described, named, digits, tmp_path):
    with pytest.raises(UserError, match=r"counts words of train/ and asks about test/; name a folder that has both"):
        judged(described, named / "test")
    with pytest.raises(UserError, match=r"have no captions; pack images with texts beside them"):
        judged(described, digits)


def test_samples_without_a_caption_are_left_out_named_and_counted(described, named, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(named.parent / "of-test" / "source", source)
    texts = sorted(source.rglob("*.txt"))
    for file in (texts[0], texts[7], texts[-1]):
        file.unlink()
    pack(str(source), tmp_path / "both" / "test", workers=1)
    shutil.copytree(named / "train", tmp_path / "both" / "train")
    (result, _) = judged(described, tmp_path / "both", out=tmp_path)
    whole, _ = judged(described, named)
    assert result.num_test == TEST - 3 and result.split.endswith("; 3 of 23 without .txt left out")
    assert whole.split == "its own test split" and result.test_sha256 != whole.test_sha256 and result.key != whole.key
    for file in list(source.rglob("*.txt"))[1:]:
        file.write_bytes(b"\xff\xfe" if file == texts[1] else b" \n")
    pack(str(source), tmp_path / "one" / "test", workers=1)
    shutil.copytree(named / "train", tmp_path / "one" / "train")
    with pytest.raises(UserError, match=r"one/test: one sample has all that .* shows another beside each; pack"):
        judged(described, tmp_path / "one")
    for file in source.rglob("*.txt"):
        file.unlink()
    pack(str(source), tmp_path / "none" / "test", workers=1)
    shutil.copytree(named / "train", tmp_path / "none" / "train")
    with pytest.raises(UserError, match="have no captions"):
        judged(described, tmp_path / "none")


def test_what_is_no_number_is_said(described, named, tmp_path, monkeypatch):
    monkeypatch.setattr(
        VirTex, "caption_log_likelihood", lambda *_: (torch.full((TEST,), math.nan), torch.full((TEST,), 3))
    )
    with pytest.raises(UserError, match="its log-likelihoods are not all finite; the weights are broken"):
        judged(described, named, out=tmp_path)
    monkeypatch.setattr(VirTex, "caption_log_likelihood", lambda *_: (torch.zeros(TEST), torch.zeros(TEST).long()))
    with pytest.raises(UserError, match="of its captions no token is asked for; take a tokenizer that knows"):
        judged(described, named, out=tmp_path)
    far = perplexity(np.full(3, -800.0), np.ones(3))
    assert far.value == math.inf and far.interval == (math.inf, math.inf)


def test_perplexity_is_over_tokens_and_its_interval_over_captions():
    equal = perplexity(np.full(9, -2 * math.log(8)), np.full(9, 2.0))
    assert equal.value == pytest.approx(8) and equal.interval == pytest.approx((8, 8))
    lengths = np.array([1.0, 3.0])
    assert perplexity(np.array([-math.log(2), -3 * math.log(4)]), lengths).value == pytest.approx(2 ** (7 / 4))


def test_the_interval_covers_what_it_promises():
    generator, covered = np.random.default_rng(0), 0
    for _ in range(400):
        lengths = generator.integers(3, 9, 60).astype(float)
        surprise = lengths * generator.gamma(4.0, 0.5, 60)  # 2 nats a token
        low, high = perplexity(-surprise, lengths).interval
        covered += low <= math.exp(2) <= high
    assert 0.92 <= covered / 400 <= 0.97


def test_a_table_gives_all_tokens_a_share():
    shares = np.exp(witten_bell(np.array([6, 0, 2, 0])))
    assert shares == pytest.approx([6 / 10, 1 / 10, 2 / 10, 1 / 10])
    assert np.exp(witten_bell(np.array([3, 1]))) == pytest.approx([3 / 4, 1 / 4])
