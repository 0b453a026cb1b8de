"""Training on labels, on real digits: better than its start, resumable without the source, each test image once."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from eyespot.cluster.cli import main
from eyespot.data_pipeline.augment.views import CenterView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.finetune import first_run, judge_trained, plan, prepare, recipe_for, same_epochs
from eyespot.eval.protocols.labeled_data import Shots, labeled_data
from eyespot.eval.results.result import packed, read_result
from eyespot.eval.results.selection import find_entries
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.distributed.collectives import any_rank
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.encoders import make_encoder
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.trainer import fit

ONE = World(rank=0, size=1, device=torch.device("cpu"))
STAGED = OptimConfig(lr=1.6e-2, stages=(0.3, 0.6), stage_blocks=1)
FAST = dict(steps=120, track=False, device="cpu", log_every=50)


def job_of(
    run_dir, shards, place, *, recipe="finetune_tiny", protocol="finetune", scratch=False, shots=None, **changes
):
    def changed(run, name, images):
        assert name == recipe
        optim = replace(run.optim, layer_decay=1.0, lr=1.6e-2) if run.optim.name == "adamw" else run.optim
        run.data.batch_size = 32
        return replace(run, **{"optim": optim, **FAST, **changes})

    return plan(
        protocol,
        str(run_dir),
        shards,
        recipe=recipe,
        scratch=scratch,
        pretrained=True,
        out=place / "out",
        run_dir=place / "tuned",
        shots=shots,
        changed=changed,
    )


def finish(job):
    """Trains what is left to train, and judges."""
    results = []
    if prepare(job, ONE):
        assert fit(job.run, job.recipe, (), lambda world: results.extend(judge_trained(job, world))) == "done"
    else:
        results = judge_trained(job, ONE)
    return results


def slow_answers(job, shards):
    """Image by image with the last checkpoint, without the machinery of cached features."""
    run = job.run
    objective = run.objective.build(make_encoder(run.encoder), 16).eval()
    objective.load_state_dict(checkpoint.read_module(checkpoint.newest(run.run_dir)))
    views = ViewSpec(views=(CenterView(resize=16, size=16),), mean=(0.3, 0.3, 0.3), std=(0.37, 0.37, 0.37))
    with torch.no_grad():
        batches = make_pass(LoaderSpec(shards=ShardFolder(shards), views=views, batch_size=50))
        return [(objective.logits(batch.views[0]).argmax(1) == batch.labels).numpy() for batch in batches]


def test_it_beats_its_start_and_is_done_once(run_dir, digits, tmp_path):
    job = job_of(run_dir, digits, tmp_path)
    (result,) = finish(job)
    assert result.interval[0] > 0.13  # ten classes: what it started from knows a tenth
    assert (result.protocol, result.role, result.num_test, result.num_train) == ("finetune", "encoder", 359, 1438)
    right = np.concatenate(slow_answers(job, digits / "test"))
    assert (result.num_correct, result.correct) == (right.sum(), packed(right))
    assert read_result(job.path) == result
    assert [entry.result.key for entry in find_entries([job.path])] == [result.key]
    before = job.path.stat().st_mtime_ns
    again = job_of(run_dir, digits, tmp_path)
    assert not prepare(again, ONE)
    assert finish(again)[0].created == result.created and job.path.stat().st_mtime_ns == before
    shutil.rmtree(run_dir)  # the source is needed no more
    assert finish(job_of(run_dir, digits, tmp_path))[0].key == result.key


def test_a_stopped_one_goes_on_exactly_without_its_source(run_dir, digits, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(job_of(run_dir, digits, whole, steps=6))
    job = job_of(run_dir, digits, parts, steps=6, stop_after=3)
    assert finish(job) == [] and not job.path.exists()
    shutil.rmtree(run_dir)
    finish(job_of(run_dir, digits, parts, steps=6))
    states = [checkpoint.read_module(checkpoint.newest(place / "tuned")) for place in (whole, parts)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_frozen_weights_are_bit_equal_and_the_start_is_models(run_dir, digits, tmp_path):
    source = checkpoint.read_encoder(checkpoint.newest(run_dir))
    job = job_of(run_dir, digits, tmp_path, recipe="linear_paper_tiny", protocol="linear-paper", steps=5)
    (result,) = finish(job)
    after = checkpoint.read_encoder(checkpoint.newest(job.run.run_dir))
    assert all(torch.equal(source[name], after[name]) for name in source)
    assert (result.protocol, result.metric) == ("linear-paper", "linear-paper/linear_paper_tiny")


def test_without_a_test_split_what_is_held_out_is_never_learned_from(run_dir, digits, tmp_path):
    job = job_of(run_dir, digits / "test", tmp_path, steps=2, seed=3)
    (result,) = finish(job)
    data = labeled_data(ShardFolder(digits / "test"), 3)
    assert (result.num_train, result.num_test) == (len(data.train.rows), len(data.test.rows))
    written = [int(line) for line in job.run.data.ids.read_text().split()]
    assert written == data.train.rows.tolist()
    right = np.concatenate(slow_answers(job, digits / "test"))[data.test.rows]
    assert result.correct == packed(right)
    assert json.loads((job.run.run_dir / "metrics.jsonl").read_text().splitlines()[-1])["epoch"] == pytest.approx(
        64 / len(written), abs=1e-3
    )


@pytest.mark.parametrize(("text", "num"), [("10%", 143), ("5", 50)])
def test_of_few_labels_each_class_has_its_share_and_all_of_test_is_asked(text, num, run_dir, digits, tmp_path):
    """The first draw of low-shot; a run that began with some images goes on with no others."""
    job = job_of(run_dir, digits, tmp_path, steps=2, shots=Shots(text=text), seed=4)
    (result,) = finish(job)
    train = labeled_data(ShardFolder.find(digits), 4).train
    written = [int(line) for line in job.run.data.ids.read_text().split()]
    assert written == sorted(train.rows[Shots(text=text).draw(train.labels, 4)[0]].tolist())
    counts, whole = (np.bincount(train.labels[rows]) for rows in (np.searchsorted(train.rows, written), slice(None)))
    assert (counts == ([5] * 10 if text == "5" else np.floor(whole / 10 + 0.5))).all()
    assert (result.num_train, result.num_test, result.settings["shots"]) == (len(written), 359, text)
    assert abs(len(written) - num) <= 3 and result.metric == f"finetune/finetune_tiny_{text}"
    assert result.split.endswith(f"learned from {text}{'' if '%' in text else ' per class'} (seed 4)")
    for shots in (Shots(text="4"), None):
        with pytest.raises(UserError, match=r"^run_dir .*tuned: learns from other images \(train.txt\)"):
            prepare(job_of(run_dir, digits, tmp_path, steps=2, shots=shots, seed=4), ONE)
    assert not prepare(job_of(run_dir, digits, tmp_path, steps=2, shots=Shots(text=text), seed=4), ONE)


def test_in_stages_head_then_last_blocks_then_all_learn_and_a_stopped_run_goes_on_exactly(run_dir, digits, tmp_path):
    source = checkpoint.read_encoder(checkpoint.newest(run_dir))

    def learned(place, steps):
        stopped = job_of(run_dir, digits, place, steps=10, stop_after=steps, save_every=1, optim=STAGED)
        finish(stopped)
        after = checkpoint.read_encoder(checkpoint.newest(place / "tuned"))
        return {".".join(name.split(".")[:2]) for name in source if not torch.equal(source[name], after[name])}

    assert learned(tmp_path, 2) == set()
    assert learned(tmp_path, 5) == {"blocks.5", "norm.weight", "norm.bias"}
    with pytest.raises(UserError, match=r"optim\.stages"):
        finish(job_of(run_dir, digits, tmp_path, steps=10, optim=replace(STAGED, stages=(0.3,))))
    assert {"patch_embed.proj", "cls_token", "blocks.0", "blocks.5"} <= learned(tmp_path, 10)
    learned(tmp_path / "whole", 10)
    states = [checkpoint.read_module(checkpoint.newest(place / "tuned")) for place in (tmp_path, tmp_path / "whole")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def judge_on(world, job):
    return judge_trained(job, world)


def test_two_ranks_judge_as_one(run_dir, digits, tmp_path, on_ranks):
    job = job_of(run_dir, digits, tmp_path, steps=2)
    (alone,) = finish(job)
    job.path.unlink()
    shutil.rmtree(job.run.run_dir / "answers")
    (first,), nothing = on_ranks(judge_on, 2, job)
    assert nothing == []
    assert (first.key, first.correct) == (alone.key, alone.correct)


def test_the_training_is_a_run_beside_its_source(run_dir, digits):
    words = dict(recipe="finetune_tiny", scratch=False, pretrained=True, run_dir=None, changed=lambda run, *_: run)
    job = plan("finetune", str(run_dir), digits, out=None, **words)
    stem = "finetune_digits-47d635_step-00000012_finetune_tiny-seed0"
    assert job.path == run_dir / "eval" / f"{stem}.json"
    assert job.run.run_dir == run_dir.parent / f"run.{stem}"


def test_epochs_stay_epochs(run_dir, digits, tmp_path):
    job = job_of(run_dir, digits, tmp_path, steps=225)
    run = first_run("linear_paper_simclr", job.start, job.data, digits)
    assert run.steps == round(90 * 1438 / 4096) and run.objective.num_classes == 10
    assert (run.encoder.name, run.encoder.image_size, run.data.mean) == ("test_vit", 16, (0.3, 0.3, 0.3))
    recipe = make_run("finetune_mae_vitb16_in1k")
    run = make_run("finetune_mae_vitb16_in1k")
    run.data.batch_size = 512
    same_epochs(run, recipe)
    assert (run.steps, run.optim.warmup_steps) == (2 * recipe.steps, 2 * recipe.optim.warmup_steps)
    run.steps, run.data.batch_size = 7, 256
    same_epochs(run, recipe)
    assert run.steps == 7


def test_the_recipe_that_is_meant_fits_the_protocol():
    assert recipe_for("finetune", 32) == "finetune_cifar10"
    for protocol in ("finetune", "linear-paper", "attentive"):
        assert make_run(recipe_for(protocol, 224)).objective.frozen == (protocol != "finetune")


def test_from_scratch_is_the_same_encoder_with_the_seeds_weights(run_dir, digits, tmp_path):
    job = job_of(run_dir, digits, tmp_path, scratch=True, steps=2)
    (result,) = finish(job)
    assert (result.role, result.name, job.run.start.weights) == ("random", "from scratch", None)
    assert result.origin["encoder"] == "test_vit"


def test_the_command_refuses_another_beginning_in_the_same_folder(run_dir, digits, tmp_path, capsys):
    prepare(job_of(run_dir, digits, tmp_path, steps=2), ONE)
    words = f"eval finetune {run_dir} {digits} --recipe finetune_tiny --scratch --run-dir {tmp_path / 'tuned'}"
    assert main(words.split()) == 2
    assert "began with" in capsys.readouterr().err
    assert any_rank([False]) == [False]
