"""Digits and somebody who says them: what gates of images and sound learn from, and what they are asked.

Each image of the built-in digits gets a recording of its digit from the Free Spoken Digit Dataset (Z. Jackson and
others, CC BY-SA 4.0, 3,000 recordings of six speakers), which is no part of this package. Takes 0 to 4 of each speaker
and digit are for test images alone: no recording and no image is on both sides, but the speakers are.
"""

import shutil
import tarfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gates import Case, Found, chance, eyespot
from members.captioned import images_of

from eyespot.data_pipeline.augment.views import AudioView, ViewSpec, center_view
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.objectives.ambient_sound import AmbientSound

SPOKEN = "spoken-digits"
ARCHIVE = "free-spoken-digits.tar.gz"
TEST_TAKES = 5
CHANGES = "--data.batch-size 64 --optim.lr 8e-3"
TRAINED: dict[str, Any] = dict(
    steps=300, shares=True, changes=CHANGES, learned=((SPOKEN, SPOKEN),), on="digits and who says them"
)


def pack(name: str, work: Path, data: Path) -> None:
    """Makes the shards in ``work``, unless they are there: 1,438 pairs to learn from, 300 to be asked about."""
    if (work / name / "train" / "manifest.json").exists():
        return
    plain, files = work / f"{name}-plain", work / f"{name}-files"
    if not (plain / "train" / "manifest.json").exists():
        eyespot("shards", "pack", "digits", str(plain))
    shutil.rmtree(files, ignore_errors=True)
    recordings = _recordings(data / ARCHIVE)
    for split in ("train", "test"):
        left = {digit: list(waves) for digit, waves in recordings[split].items()}
        for sample, (digit, image) in enumerate(images_of(ShardFolder(plain / split))):
            if left[digit]:  # of test images there are a few more than recordings
                place = files / split / str(digit) / f"{sample:06d}"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.with_suffix(".png").write_bytes(image)
                place.with_suffix(".wav").write_bytes(left[digit].pop())
    eyespot("shards", "pack", str(files), str(work / name))


def _recordings(archive: Path) -> dict[str, dict[int, list[bytes]]]:
    """By split and digit, in an order that is fixed and mixes the speakers."""
    found: dict[str, dict[int, list[bytes]]] = {"train": defaultdict(list), "test": defaultdict(list)}
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda one: one.name):
            digit, _, take = Path(member.name).stem.split("_")
            file = tar.extractfile(member)
            assert file is not None
            found["test" if int(take) < TEST_TAKES else "train"][int(digit)].append(file.read())
    for digits in found.values():
        for digit, waves in digits.items():
            np.random.default_rng(digit).shuffle(waves)  # type: ignore[arg-type]
    return found


def heard(case: Case) -> Found:
    """Whether the sound nearest to an image is of its digit."""
    return _found(case, lambda alike, same: same[np.arange(len(same)), alike.argmax(1)])


def meant(case: Case) -> Found:
    """Whether the image nearest to a sound is of its digit."""
    return _found(case, lambda alike, same: same[alike.argmax(0), np.arange(len(same))])


def pairs(case: Case) -> Found:
    """Of all sounds of other digits the share that an image is farther from than from its own sound."""
    return _found(case, lambda alike, same: ((np.diag(alike)[:, None] > alike) & ~same).sum(1) / (~same).sum(1), 0.5)


@torch.no_grad()
def _found(case: Case, answer: Callable[[np.ndarray, np.ndarray], np.ndarray], luck: float = 0.1) -> Found:
    """Cosines of images (rows) and sounds (columns), and which are of one digit, in; a number for each sample out."""
    views = looks(case)
    found: Found = {}
    for who, objective in case.objectives.items():
        rows = [
            [objective.embed_joint(kind, view) for kind, view in zip(("image", "sound"), each.views, strict=True)]
            for each in views
        ]
        images, sounds = (torch.cat(each) for each in zip(*rows, strict=True))
        labels = torch.cat([each.labels for each in views])
        found[who] = answer((images @ sounds.T).numpy(), (labels[:, None] == labels).numpy()).astype(float)
    return chance(found, luck)


def looks(case: Case, shards: ShardFolder | None = None) -> list[Batch]:
    """Whole images and the middle of their sounds, of the unseen samples or others."""
    objective = case.objectives["trained"]
    _, sound, *_ = objective.views().views
    assert isinstance(sound, AudioView)
    spec = ViewSpec(views=(center_view(objective.image_size), replace(sound, place="center", partner=False)))
    return list(case.batches(1, case.normalized(spec), shards))


@torch.no_grad()
def clusters(case: Case) -> Found:
    """Whether the cluster of a sound is named by who sees the image: of the trained one's clusters, also untrained."""
    trained, untrained = (case.objectives[name] for name in ("trained", "untrained"))
    for name, buffer in trained.named_buffers(recurse=False):
        untrained.get_buffer(name).copy_(buffer)
    assert isinstance(trained, AmbientSound)
    most = torch.cat([trained.cluster(each.views[1]) for each in looks(case, case.learned)]).mode().values
    found: dict[str, list[np.ndarray]] = {"trained": [], "untrained": [], "most frequent": []}
    for batch in looks(case):
        answers = trained.cluster(batch.views[1])
        for name in ("trained", "untrained"):
            named = case.objectives[name].head(case.objectives[name].encode(batch.views[0])).argmax(1)  # type: ignore[operator]
            found[name].append((named == answers).double().numpy())
        found["most frequent"].append((answers == most).double().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}
