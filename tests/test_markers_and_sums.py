"""The shards of today are those of earlier versions."""

import hashlib
import tarfile
from pathlib import Path

from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.sources import CALTECH10


def test_shards_are_to_the_byte_those_of_earlier_versions(tmp_path: Path):
    """Tars, indexes and manifests of 20 photographs that come with the package, which no library wrote here."""
    with tarfile.open(CALTECH10) as archive:
        for member in [one for one in archive if one.isfile() and one.name.endswith(".jpg")][::100]:
            path = tmp_path / "photos" / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(member).read())
    pack(str(tmp_path / "photos"), tmp_path / "out", workers=1, max_samples=12)
    digest = hashlib.sha256()
    for path in sorted((tmp_path / "out").rglob("*")):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    assert digest.hexdigest() == "dfb6445416095b7c8e9a073030f5bcf9c983df5d4c4c4618ca3bb419bea80abb"
