"""What gates of images and captions learn from and ask, against loops over images; benchmarks/members."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.augment.views import ViewSpec, center_view
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.data_pipeline.shards import pack as packing
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import recorded_values
from eyespot.pretrain.run_record import RunRecord

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from gates import Case
from members import captioned
from members.captioned import DIGITS, NUMBERS, SETS
from members.questions import PIXELS, naming


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with the digits that have captions; what a command does is done in this process."""
    folder = tmp_path_factory.mktemp("members")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captioned, "eyespot", lambda *words: packing.pack(words[2], Path(words[3]), workers=1))
        captioned.pack(DIGITS, folder, folder)
    return folder


def test_every_digit_has_the_sentences_about_its_class_and_keeps_its_side(work):
    for split in ("train", "test"):
        plain, made = (ShardFolder.find(work / name, split) for name in (f"{DIGITS}-plain", DIGITS))
        assert sorted(made.manifest.classes) == sorted(NUMBERS)
        assert made.manifest.members["txt"].count == made.manifest.num_samples == plain.manifest.num_samples
        named = Counter(made.manifest.classes[label] for label in made.index["label"])
        assert named == Counter(NUMBERS[int(plain.manifest.classes[label])] for label in plain.index["label"])
        for file in (work / f"{DIGITS}-files" / split).rglob("*.txt"):
            assert file.read_text().splitlines() == [each.format(file.parent.name) for each in SETS[DIGITS].sentences]
            assert len(list(file.parent.glob(f"{file.stem}.*"))) == 2, "its image"


def test_an_image_is_named_by_the_nearest_sentences_and_beside_it_by_the_nearest_mean(work):
    run = make_run("clip_tiny")
    RunRecord(recipe="clip_tiny", run=recorded_values(run)).write(work)
    learned, unseen = (ShardFolder.find(work / DIGITS, split) for split in ("train", "test"))
    case = Case(run_dir=work, learned=learned, unseen=unseen, ids=np.arange(40))
    case.objectives = {}
    for seed, who in enumerate(("trained", "untrained")):
        torch.manual_seed(seed)
        case.objectives[who] = fresh_objective(run).eval()
    found, classes = naming(case), unseen.manifest.classes
    view = case.normalized(ViewSpec(views=(center_view(run.encoder.image_size),)))
    (batch,) = case.batches(1, view)
    with torch.inference_mode():
        for who, each in case.objectives.items():
            tokens = load_tokenizer("clip", 16)
            right = []
            for image, label in zip(batch.views[0], batch.labels.tolist(), strict=True):
                one = each.embed_joint("image", image[None])[0]
                of_class = []
                for name in classes:
                    said = torch.from_numpy(tokens([sentence.format(name) for sentence in SETS[DIGITS].sentences]))
                    mean = each.embed_joint("text", said).mean(0)
                    of_class.append(float(one @ mean / mean.norm()))
                right.append(float(np.argmax(of_class) == label))
            assert found[who].tolist() == right
    pixels: dict[int, list[torch.Tensor]] = {}
    for part in case.batches(1, view, learned):
        for image, label in zip(part.views[0], part.labels.tolist(), strict=True):
            pixels.setdefault(label, []).append(image)
    means = [torch.stack(pixels[label]).double().mean(0) for label in range(10)]
    nearest = [int(torch.stack([(image - mean).norm() for mean in means]).argmin()) for image in batch.views[0]]
    assert found[PIXELS].tolist() == [float(a == b) for a, b in zip(nearest, batch.labels.tolist(), strict=True)]
    assert found[PIXELS].mean() > 0.7 and set(found["chance"]) == {0.1}
