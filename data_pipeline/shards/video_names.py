"""What the videos of clip shards were called where they come from."""

import json
from dataclasses import replace
from typing import BinaryIO

from eyespot.data_pipeline.shards.manifest import Reading
from eyespot.data_pipeline.shards.members.samples import LONGEST_NOTES, NOTES, Sample, group
from eyespot.data_pipeline.shards.members.skipped import Tally
from eyespot.data_pipeline.shards.members.tar_members import scan
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def video_names(shards: ShardFolder) -> list[str]:
    """Of each sample the name it was packed under, which its .json member says; its key where nothing says one.

    The headers of all tars are read.

    Args:
        shards: clip shards.

    Raises:
        UserError: a tar is missing, damaged, or none.
    """
    shards.check_tars()
    reading = shards.manifest.reading or Reading()
    reading = replace(reading, frames=reading.frames or "dot")
    places = zip(shards.index["tar"].tolist(), shards.index["offset"].tolist(), strict=True)
    samples = {place: number for number, place in enumerate(places)}
    found = [str(number) for number in range(len(samples))]
    for number in range(len(shards.manifest.shards)):
        path = shards.local_tar(number)
        with path.open("rb") as file:
            for sample in group(path, scan(path).files, reading, Tally()):
                if sample.image is not None and (place := (number, sample.image.offset)) in samples:
                    found[samples[place]] = _source(file, sample)
    return found


def _source(file: BinaryIO, sample: Sample) -> str:
    notes = next((member for extension, member in sample.members if extension.lower() == NOTES), None)
    if notes is None or notes.size > LONGEST_NOTES:
        return sample.name
    file.seek(notes.offset)
    try:
        said = json.loads(file.read(notes.size))
    except (ValueError, RecursionError):
        return sample.name
    source = said.get("source") if isinstance(said, dict) else None
    return source if isinstance(source, str) else sample.name
