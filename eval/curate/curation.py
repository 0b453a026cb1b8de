"""What a curation leaves: the ids that stay, how they were chosen, and a page to look at.

OUT/ids.txt              sample ids, one a line, ascending: what --data.ids takes
OUT/provenance.json      of which data, by which encoder, with which settings; what was dropped for which reason
OUT/dropped.csv          (duplicates, leaks) each dropped sample, and for whose sake
OUT/report.html          the clusters or groups as pictures
"""

import csv
import hashlib
import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

import eyespot
from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.chosen_ids import PROVENANCE, read_ids
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.stores.location import Location, check_on_disk
from eyespot.eval.encoders.feature_cache import feature_files, features_key
from eyespot.eval.encoders.subject import Subject, subjects_of
from eyespot.eval.evaluate import results_folder
from eyespot.eval.search.row_file import RowFile, Rows
from eyespot.pretrain.distributed.collectives import agreed
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.redaction import masked, masked_values
from eyespot.pretrain.run_record import RunRecord

FORMAT = "eyespot-curation/1"
IDS, DROPPED, REPORT = "ids.txt", "dropped.csv", "report.html"
Verb = Literal["duplicates", "leaks", "balance", "retrieve"]


@dataclass(kw_only=True, slots=True)
class Provenance:
    """What is read again of provenance.json."""

    key: str
    command: str
    argv: list[str]
    shards: dict[str, Any]
    seed: int
    settings: dict[str, Any]
    looked_at: int
    kept: int
    dropped: dict[str, int]
    """By reason."""
    encoder: dict[str, Any] | None = None


@dataclass(kw_only=True, slots=True)
class Question:
    """What is asked of which data; ``settings`` name all that determines the answer besides."""

    verb: Verb
    shards: ShardFolder
    start: Int64[np.ndarray, " n"]
    """The samples to choose from, ascending."""
    out: Path
    cache: Path | None
    """Of features and picture hashes; None = where eyespot eval keeps features, and hashes in ``out``."""
    world: World
    seed: int
    settings: dict[str, Any]
    began: float = field(default_factory=time.monotonic)

    def key(self) -> str:
        """sha256 of the question."""
        parts = [FORMAT, self.verb, self.shards.manifest_sha256, str(self.seed)]
        parts += [json.dumps(self.settings, sort_keys=True), digest_of_ids(self.start)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def begin(self) -> None:
        """Makes the folder; all ranks call it.

        Raises:
            UserError: it cannot be written, or holds the answer to another question: a run may learn from it.
        """
        with agreed():
            if self.world.rank == 0:
                self._begin()

    def _begin(self) -> None:
        for place, flag in ((self.out, "OUT"), (self.cache, "--cache")):
            if place is not None:
                check_on_disk(place, flag, "what is chosen and kept is")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            for path, what in ((self.out / "manifest.json", "shards"), (RunRecord.path(self.out), "a run")):
                if path.exists():
                    raise UserError(f"{self.out}: holds {what}; name a folder of its own")
            known = foreign_json.read(self.out / PROVENANCE, Provenance)
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"{self.out}: cannot be written ({error.strerror}); name another folder") from error
        if known.key != self.key():
            raise UserError(f"{self.out}: holds what another curation chose, from which runs may learn; name another")


def images_in(path: Location | str, *splits: str, world: World) -> ShardFolder:
    """The shard folder at a path, of single images. All ranks call it.

    Raises:
        UserError: there is none, or its samples are videos or images of bands.
    """
    with agreed():
        shards = ShardFolder.find(path, *splits, hashes=world.local_rank == 0)
        if shards.manifest.frames is not None:
            raise UserError(f"shards {path}: its samples are videos, and curate compares single images")
        if shards.manifest.bands is not None:
            raise UserError(
                f"shards {path}: its images are {shards.manifest.bands}, and curate compares pictures of RGB"
            )
        _ = shards.index
    return shards


def samples_to_choose_from(shards: ShardFolder, ids: Path | None, flag: str = "--ids") -> Int64[np.ndarray, " n"]:
    """Ascending ids: those that a file names, or all. All ranks call it."""
    with agreed():
        if ids is None:
            return np.arange(shards.manifest.num_samples)
        return np.sort(read_ids(f"{flag} {ids}", ids, shards))


@dataclass(kw_only=True, slots=True)
class Encoder:
    """Whose features decide."""

    subject: Subject
    kind: str
    """Of features: cls, mean, pool; empty = its first."""
    target: str
    cache: Path

    @classmethod
    def of(cls, target: str, kind: str, cache: Path | None) -> "Encoder":
        """The encoder that MODEL names. All ranks call it.

        Raises:
            UserError: there is no such encoder.
        """
        with agreed():
            subject = next(each for each in subjects_of(target, seed=0) if each.role == "encoder")
        return cls(subject=subject, kind=kind, target=target, cache=cache or results_folder(target) / "features")

    def rows(self, shards: ShardFolder, ids: Int64[np.ndarray, " n"], world: World) -> Rows:
        """Features of some samples; computed once for all of the folder. All ranks call it.

        Raises:
            UserError: it has no features of that kind, or they cannot be computed.
        """
        files = feature_files(self.subject, shards, self.cache, world)
        kind = self.kind or next(iter(files))
        if kind not in files:
            raise UserError(f"--features {kind}: {self.subject.name} has {', '.join(files)}; choose one of them")
        self.kind = kind
        with agreed():
            file = RowFile(files[kind])
            if file.count != shards.manifest.num_samples:
                raise UserError(
                    f"{file.path}: has {file.count:,} rows, and {shards.path} {shards.manifest.num_samples:,} samples;"
                    " remove its folder and run again"
                )
        return Rows(file, ids)

    def told(self, shards: ShardFolder) -> dict[str, Any]:
        """For the provenance."""
        found = {"model": masked(self.target), "name": self.subject.name, "sha256": self.subject.digest()}
        found |= {"features": self.kind, "features_key": features_key(self.subject, shards)}
        return {**found, "origin": masked_values(self.subject.origin)}


def digest_of_ids(ids: Int64[np.ndarray, " n"]) -> str:
    """sha256 of which samples these are, in which order."""
    return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()


def read_provenance(out: Path) -> Provenance:
    """What ``write_answer`` wrote.

    Raises:
        UserError: it is no longer there, or damaged.
    """
    try:
        return foreign_json.read(out / PROVENANCE, Provenance)
    except OSError as error:
        raise UserError(f"{out / PROVENANCE}: cannot be read ({error.strerror})") from error


def whole(shards: ShardFolder) -> str:
    """Where they lie, however they were called."""
    return str(shards.path.resolve() if isinstance(shards.path, Path) else shards.path)


def data_told(shards: ShardFolder) -> dict[str, Any]:
    """Which data, for the provenance."""
    return {
        "name": shards.manifest.name,
        "path": masked(whole(shards)),
        "manifest_sha256": shards.manifest_sha256,
        "index_sha256": shards.manifest.index_sha256,
        "samples": shards.manifest.num_samples,
    }


def write_answer(
    question: Question,
    kept: Int64[np.ndarray, " m"],
    *,
    dropped: dict[str, int],
    told: dict[str, Any],
    table: tuple[Sequence[str], Sequence[Sequence[Any]]] | None = None,
) -> None:
    """Writes ids, provenance and table, the provenance last.

    Args:
        question: what was asked.
        kept: ascending ids.
        dropped: how many are not kept, by reason.
        told: what else belongs into the provenance: encoder, clusters, second data set.
        table: header and rows of dropped.csv.

    Raises:
        UserError: nothing is left, or the folder cannot be written.
    """
    if not len(kept):
        raise UserError(f"{question.verb}: no sample is left to learn from; ask for less similarity, or keep more")
    ids = "".join(f"{sample}\n" for sample in kept.tolist()).encode()
    record = {
        "format": FORMAT,
        "key": question.key(),
        "command": question.verb,
        "argv": [masked(word) for word in sys.argv[1:]],
        "eyespot": eyespot.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "shards": data_told(question.shards),
        "seed": question.seed,
        "settings": question.settings,
        "looked_at": len(question.start),
        "kept": len(kept),
        "dropped": dropped,
        "ids_sha256": hashlib.sha256(ids).hexdigest(),
        "ranks": question.world.size,
        "seconds": round(time.monotonic() - question.began, 3),
        **told,
    }
    try:
        write_bytes(question.out / IDS, ids)
        if table is not None:
            stream = io.StringIO()
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(table[0])
            writer.writerows(table[1])
            write_bytes(question.out / DROPPED, stream.getvalue().encode(errors="backslashreplace"))
        write_bytes(question.out / PROVENANCE, (json.dumps(record, indent=1) + "\n").encode())
    except OSError as error:
        raise UserError(f"{question.out}: cannot be written ({error.strerror}); name another folder") from error
