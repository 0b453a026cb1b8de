"""Every kept checkpoint is scored, alike on any number of ranks, and the choice follows its rule."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.checkpoint_choice.choice import select, verdicts
from eyespot.eval.checkpoint_choice.scores import NUM_DRAWS, Scored
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.folders import complete
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.losses.feature_statistics import effective_rank

ONE = World(rank=0, size=1, device=torch.device("cpu"))
NAMES = ["step-1", "step-2", "step-3"]


def more_checkpoints(run_dir: Path) -> None:
    """Beside that of step 12 one with other weights, and one whose features are the same for every image."""
    (first,) = complete(run_dir)
    tensors = {f"model.{name}": tensor for name, tensor in checkpoint.read_module(first).items()}
    writer = CheckpointWriter(run_dir, keep=9)
    for step in (13, 14):
        generator = torch.Generator().manual_seed(step)
        weights = [name for name, tensor in tensors.items() if tensor.ndim > 1 and ".encoder." in name]
        for name in weights:
            tensors[name] = tensors[name] + 0.3 * torch.randn(tensors[name].shape, generator=generator) * (step == 13)
        if step == 14:
            tensors["model.encoder.norm.weight"] = torch.zeros_like(tensors["model.encoder.norm.weight"])
            tensors["model.encoder.norm.bias"] = torch.ones_like(tensors["model.encoder.norm.bias"])
        writer.save(tensors, checkpoint.Meta(step=step, loader={}, world_size=1, run_key="0"), wait=True)
    writer.close()


def test_all_kept_checkpoints_are_scored_once(run_dir, digits):
    more_checkpoints(run_dir)
    found = select(str(run_dir), None, num_images=64, seed=0, world=ONE)
    assert found is not None
    assert [each.step for each in found.checkpoints] == [12, 13, 14]
    assert [each.kept is None for each in found.checkpoints] == [True, False, False]
    first, second, collapsed = found.checkpoints
    assert not first.alarms and not second.alarms and "collapsed to a point" in collapsed.alarms[0]
    assert all("14" not in verdict.taken and "14" not in verdict.best for verdict in found.verdicts.values())
    assert first.scores["rankme"].value != second.scores["rankme"].value
    low, high = first.scores["rankme"].interval
    assert low < first.scores["rankme"].value < high
    (path,) = (run_dir / "eval" / "select").glob("*.json")
    assert json.loads(path.read_text())["verdicts"] == {name: asdict(one) for name, one in found.verdicts.items()}
    again = select(str(run_dir), digits, num_images=64, seed=0, world=ONE)
    assert again == found, "an earlier answer to the same question counts"
    other = select(str(run_dir), digits, num_images=48, seed=0, world=ONE)
    assert other is not None and other.num_images == 48 and other.key != found.key


def test_rankme_is_of_the_features_that_evaluation_sees(run_dir, digits):
    """Against features made with the evaluation's own code, of all images of the split."""
    from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
    from eyespot.eval.encoders.feature_cache import features_of
    from eyespot.eval.encoders.subject import subjects_of

    found = select(str(run_dir), digits, num_images=10_000, seed=0, world=ONE)
    shards = find_shards(digits, "test", "train")
    rows = features_of(subjects_of(str(run_dir), seed=0)[0], shards, run_dir / "cache", ONE)["cls"]
    assert found is not None and found.num_images == len(rows)
    expected = effective_rank(torch.from_numpy(np.array(rows)), centered=False)
    assert found.checkpoints[0].scores["rankme"].value == pytest.approx(expected, rel=1e-4)


def test_ranks_find_the_same_as_one(run_dir, on_ranks):
    one = select(str(run_dir), None, num_images=300, seed=0, world=ONE, out=run_dir / "one")
    first, second = on_ranks(selected, 2, run_dir)
    assert second is None and one is not None
    assert asdict(replace(first, argv=[], created="")) == asdict(replace(one, argv=[], created=""))


def selected(world: World, run_dir: Path):
    torch.set_num_threads(1)
    return select(str(run_dir), None, num_images=300, seed=0, world=world, out=run_dir / "two")


def made(value: float, error: float, seed: int, shared: float = 0.0) -> Scored:
    """With draws around the value: some of their noise is all checkpoints' own, the rest is this one's."""
    value = float(value)
    own = np.random.default_rng(seed).standard_normal(NUM_DRAWS) * error
    all_of_them = np.random.default_rng(99).standard_normal(NUM_DRAWS) * shared
    names = ("rankme", "alpha_req", "lidar", "knn")
    return Scored(
        values=dict.fromkeys(names, value),
        draws=dict.fromkeys(names, value + own + all_of_them),
        neighbours=torch.zeros(1, 1, dtype=torch.int64),
    )


def test_the_newest_that_is_not_clearly_worse_is_taken():
    found = verdicts(NAMES, [made(9, 0.1, 1), made(10, 0.1, 2), made(9.95, 0.1, 3)], [[], [], []])["rankme"]
    assert (found.taken, found.best, found.alike) == ("step-3", "step-2", ["step-2", "step-3"])
    assert "step-3 is newer" in found.words and "falls behind is step-1, by 1 (" in found.words
    found = verdicts(NAMES, [made(9, 0.1, 1), made(10, 0.1, 2), made(9, 0.1, 3)], [[], [], []])["lidar"]
    assert (found.taken, found.alike) == ("step-2", ["step-2"])
    assert "in 100% of the draws" in found.words
    found = verdicts(NAMES, [made(9, 3, 1), made(10, 3, 2), made(9, 3, 3)], [[], [], []])["knn"]
    assert (found.taken, found.alike) == ("step-3", NAMES)


def test_what_all_checkpoints_share_does_not_make_the_choice_less_sure():
    scores = [made(9, 0.1, 1, shared=5), made(10, 0.1, 2, shared=5), made(9, 0.1, 3, shared=5)]
    assert verdicts(NAMES, scores, [[], [], []])["rankme"].alike == ["step-2"]


def test_draws_that_lie_elsewhere_than_the_score_do_not_contradict_its_interval():
    scores = [made(9, 0.1, 1), made(10, 0.1, 2)]
    scores[1].draws = {name: draws - 3 for name, draws in scores[1].draws.items()}
    words = verdicts(NAMES[:2], scores, [[], []])["rankme"].words
    assert "in 100% of the draws; the best that falls behind is step-1, by 1 (" in words


def test_a_decay_near_one_is_best_and_a_collapsed_checkpoint_is_not_taken():
    scores = [made(1.5, 0.01, 1), made(1.1, 0.01, 2), made(0.4, 0.01, 3)]
    found = verdicts(NAMES, scores, [[], [], []])
    assert (found["alpha_req"].taken, found["rankme"].taken) == ("step-2", "step-1")
    assert verdicts(NAMES, scores, [["dead"], [], []])["rankme"].taken == "step-2"
    assert verdicts(NAMES, scores, [["dead"]] * 3) == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("checkpoints/step-00000012", "is not a run folder"),
        ("absent", "is not a run folder"),
        ("@ema", "keeps no average of its weights"),
    ],
)
def test_what_is_no_run_is_said_in_a_line(name, words, run_dir):
    target = f"{run_dir}{name}" if name == "@ema" else str(run_dir / name)
    with pytest.raises(UserError, match=words):
        select(target, None, num_images=64, seed=0, world=ONE)
