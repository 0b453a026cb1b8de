"""What the gates of video methods learn from and are asked about: falling digits and DAVIS, packed once.

Falling digits are split by the digits that are thrown: the test videos' are in no training video. Of DAVIS' 20 videos
every other one, by name, lies in ``davis-even`` and the rest in ``davis-odd``: a network that learned from the ones is
asked about the others, and the other way round, so that every video is asked about by one that never saw it.
"""

import json
import tarfile
from pathlib import Path

from gates import eyespot

from eyespot.data_pipeline.shards.shard_folder import ShardFolder

ARCHIVE = "davis16-val-240p.tar"
RATE = 24
"""DAVIS' frames per second."""
TRACKED = 12
"""Frames of a track of falling digits: two a video and camera."""
DIGITS, TRACKS, MOTION = "digits", "digits-tracks", "digits-motion"
HALVES = ("davis-even", "davis-odd")


def pack(name: str, work: Path, data: Path) -> None:
    """Makes the shards of that name in ``work``, unless they are there.

    Raises:
        SystemExit: DAVIS is not where ``data`` says.
    """
    there = work / name
    if any((there / split / "manifest.json").exists() for split in ("", "test", "train")):
        return
    if name == DIGITS:
        eyespot("shards", "pack", "falling-digits", str(there))
    elif name in (TRACKS, MOTION):
        pack(DIGITS, work, data)
        words = ["tracks", "--frames", str(TRACKED)] if name == TRACKS else ["motion"]
        eyespot("shards", *words, str(work / DIGITS), str(there))
    else:
        source = _halved(work, data) / name
        given = ["--frames", "folder", "--masks", str(source / "masks"), "--mask-ignored", "254", "--rate", str(RATE)]
        eyespot("shards", "pack", str(source / "frames"), str(there), *given)


def _halved(work: Path, data: Path) -> Path:
    """DAVIS' files, half of its videos in either folder."""
    folder, archive = work / "davis-source", data / ARCHIVE
    if not all((folder / half / "masks").exists() for half in HALVES):
        if not archive.is_file():
            raise SystemExit(f"no {archive}: say where it lies with --data, or in EYESPOT_TEST_DATA")
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "all", filter="data")
        for kind in ("frames", "masks"):
            for place, video in enumerate(sorted((folder / "all" / kind).iterdir())):
                half = folder / HALVES[place % 2] / kind
                half.mkdir(parents=True, exist_ok=True)
                (half / video.name).symlink_to(video.absolute())
    return folder


def sources(shards: ShardFolder) -> list[str]:
    """What each sample was made of, as shards that ``eyespot`` wrote say beside it."""
    found = []
    for number in range(len(shards.manifest.shards)):
        with tarfile.open(shards.tar_path(number)) as tar:
            found += [
                json.loads(file.read())["source"]
                for member in tar
                if member.name.endswith(".json") and (file := tar.extractfile(member)) is not None
            ]
    return found
