"""Images are named by prompts: against a slow reference in float64, and classes of strangers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.joint.prompts import Wording
from eyespot.eval.joint.towers import asked_towers
from eyespot.eval.joint.zero_shot import class_vectors, judge_zero_shot, nearest_classes
from eyespot.eval.results.result import Result
from eyespot.pretrain.distributed.process_group import World

ONE = World(rank=0, size=1, device=torch.device("cpu"))
PROMPTS = ("a handwritten {}", "the digit {}", "{}")


def judged(target: Path, shards: Path, world: World = ONE, **changes) -> list[Result]:
    known = {"wording": Wording(prompts=PROMPTS), "out": None, "seed": 0, "world": world}
    return judge_zero_shot(str(target), shards, **(known | changes))


def test_the_class_is_that_of_the_nearest_mean(clip_run, named_digits, tmp_path):
    results = judged(clip_run, named_digits, out=tmp_path)
    shards = ShardFolder(named_digits)
    names, labels = shards.manifest.classes, shards.index["label"]
    for result, asked in zip(results, asked_towers(str(clip_run), 0, "joint-retrieval"), strict=True):
        tokens = load_tokenizer("clip", asked.views.views[1].context)
        with torch.inference_mode():
            means = []
            for name in names:
                texts = torch.from_numpy(tokens([prompt.format(name) for prompt in PROMPTS]))
                mean = asked.objective.embed_joint("text", texts).double().mean(0)
                means.append(mean / mean.norm())
            (batch,) = make_pass(LoaderSpec(shards=shards, views=asked.views, batch_size=150))
            images = asked.objective.embed_joint("image", batch.views[0]).double()
        order = (images @ torch.stack(means).T).argsort(1, descending=True).numpy()
        right = order == labels[:, None]
        assert result.accuracy == pytest.approx(right[:, 0].mean(), abs=0.007)  # one of 150 may be a tie
        assert result.scores["top-5"].value == pytest.approx(right[:, :5].any(1).mean(), abs=0.007)
        low, high = result.interval
        assert low <= result.accuracy <= high
        of_classes = {name: share for name, share in result.metrics.items() if "/class" in name}
        counts = np.bincount(labels)
        assert sum(share * count for share, count in zip(of_classes.values(), counts, strict=True)) == pytest.approx(
            result.num_correct, abs=1e-3
        )
        assert next(iter(of_classes)).endswith(f"of {counts[0]}: {names[0]}")
        assert result.settings == {"prompts": "3", "chance": 0.1, "largest class": counts.max() / 150}
    again = judged(clip_run, named_digits, out=tmp_path)
    assert [result.created for result in again] == [result.created for result in results]
    other = judged(clip_run, named_digits, out=tmp_path, wording=Wording())
    assert other[0].key != results[0].key and other[0].settings["prompts"] == "7"


def test_images_without_captions_are_named_too(clip_run, named_digits, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in named_digits.iterdir():
        (bare / file.name).symlink_to(file)
    manifest = json.loads((named_digits / "manifest.json").read_text())
    manifest["members"] = {}
    (bare / "manifest.json").unlink()
    (bare / "manifest.json").write_text(json.dumps(manifest))
    known, found = judged(clip_run, named_digits, out=tmp_path), judged(clip_run, bare, out=tmp_path)
    assert [result.accuracy for result in found] == [result.accuracy for result in known]
    assert [result.key for result in found] == [result.key for result in known], "captions are not asked for"


def test_the_mean_is_of_unit_vectors_and_a_unit_vector():
    prompts = normalize(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)), dim=2)
    found = class_vectors(prompts)
    for row, each in zip(found, prompts.double(), strict=True):
        mean = sum(each) / 4
        torch.testing.assert_close(row, mean / mean.square().sum().sqrt())
    assert nearest_classes(found.float(), found)[:, 0].tolist() == [0, 1, 2]


def test_shards_without_labels_and_runs_without_text_are_refused(clip_run, run_dir, named_digits, digits, tmp_path):
    with pytest.raises(UserError, match=r"has no towers of images and text that meet in one space; zero-shot judges"):
        judged(run_dir, named_digits)
    manifest = json.loads((named_digits / "manifest.json").read_text())
    for file in named_digits.iterdir():
        if file.name != "manifest.json":
            (tmp_path / file.name).symlink_to(file)
    manifest["classes"][3] = "\x1b]52;c;b3du\x07"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"class 3, .*: holds control characters; name the classes") as error:
        judged(clip_run, tmp_path)
    assert str(error.value).isprintable()
