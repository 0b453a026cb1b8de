"""Images with captions that were made of their classes' names: what gates of images and text learn from.

Every image of a built-in set gets each of a few sentences about its class, and keeps its side of train and test.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from gates import eyespot

from eyespot.data_pipeline.shards.shard_folder import ShardFolder

SPECIAL, UNKNOWN = ("[PAD]", "[BEGIN]", "[END]"), "[UNKNOWN]"


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """A built-in set and what is said of its images."""

    source: str
    """As ``eyespot shards pack`` calls it."""
    sentences: tuple[str, ...]
    """With {} for the name."""
    names: Mapping[str, str]
    """Of a class, where it is called otherwise than in the set."""

    def name(self, class_name: str) -> str:
        """What captions call a class."""
        return self.names.get(class_name, class_name.replace("_", " "))


NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS, CALTECH10 = "named-digits", "named-caltech10"
SETS = {
    DIGITS: Captioned(
        source="digits",
        sentences=("a handwritten {}.", "the digit {}.", "a scan of the number {}.", "{}, written by hand."),
        names={str(number): name for number, name in enumerate(NUMBERS)},
    ),
    CALTECH10: Captioned(
        source="caltech10",
        sentences=("a photo of a {}.", "a picture that shows a {}.", "there is a {} in it.", "{}, photographed."),
        names={},
    ),
}


def pack(name: str, work: Path, data: Path) -> None:
    """Makes the shards of that name in ``work``, unless they are there; and beside them a tokenizer of their words."""
    _pack(name, work)
    words = work / f"{name}-words.json"
    if not words.exists():
        classes = ShardFolder(work / name / "train").manifest.classes
        write_words(words, (text.format(each.replace("_", " ")) for each in classes for text in SETS[name].sentences))


def _pack(name: str, work: Path) -> None:
    if (work / name / "train" / "manifest.json").exists():
        return
    captioned, plain, files = SETS[name], work / f"{name}-plain", work / f"{name}-files"
    if not (plain / "train" / "manifest.json").exists():
        eyespot("shards", "pack", captioned.source, str(plain))
    shutil.rmtree(files, ignore_errors=True)
    for split in ("train", "test"):
        _write(ShardFolder(plain / split), files / split, captioned)
    eyespot("shards", "pack", str(files), str(work / name))


def write_words(path: Path, captions: Iterable[str]) -> None:
    """A tokenizer.json of the words and marks of captions: one that a decoder of minutes can choose among."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token=UNKNOWN))
    words.normalizer = tokenizers.normalizers.Lowercase()
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.train_from_iterator(captions, tokenizers.trainers.WordLevelTrainer(special_tokens=[*SPECIAL, UNKNOWN]))
    ends = [(token, number) for number, token in enumerate(SPECIAL) if number]
    words.post_processor = tokenizers.processors.TemplateProcessing(single="[BEGIN] $A [END]", special_tokens=ends)
    words.enable_padding(pad_id=0, pad_token=SPECIAL[0])
    words.save(str(path))


def _write(shards: ShardFolder, folder: Path, captioned: Captioned) -> None:
    for sample, (label, image) in enumerate(images_of(shards)):
        name = captioned.name(shards.manifest.classes[label])
        place = folder / name.replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        suffix = "png" if image.startswith(b"\x89PNG") else "jpg"
        (place / f"{sample:06d}.{suffix}").write_bytes(image)
        (place / f"{sample:06d}.txt").write_text("".join(f"{each.format(name)}\n" for each in captioned.sentences))


def images_of(shards: ShardFolder) -> Iterator[tuple[int, bytes]]:
    """Label and bytes of each image, in order."""
    tars = [os.open(shards.tar_path(number), os.O_RDONLY) for number in range(len(shards.manifest.shards))]
    for row in shards.index:
        yield int(row["label"]), os.pread(tars[row["tar"]], int(row["size"]), int(row["offset"]))
    for tar in tars:
        os.close(tar)
