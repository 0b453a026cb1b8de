"""RunRecord: ``run.json``, what a run is and where it began. Reads without torch, in milliseconds.

Whoever made the folder wrote the file: what it holds is data, of the kinds that stand below, and nothing else of it is
believed. A field that an older version did not know is None.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.augment.views import Color
from eyespot.data_pipeline.errors import UserError

NAME = "run.json"
LARGEST = 16 * 2**20
"""Bytes that it may have; ours have some thousand."""

# What may differ between the parts of one run: everything else decides the numbers, so a resumed run keeps it. Of
# files that may move (weights, tokenizers) the record has the sha256.
FREE_FIELDS = {
    *("run_dir", "resume", "stop_after", "device", "log_every", "save_every", "keep_checkpoints"),
    *("engine", "fsdp.shard_over", "fsdp.gather", "deepspeed.stage", "deepspeed.options", "compile", "cuda_graph"),
    *("picture_every", "monitor_every", "max_skipped_steps", "rank_timeout_seconds"),
    *("track", "experiment", "tensorboard", "wandb"),
    *("data.shards", "data.ids", "data.labeled_ids", "data.accumulate", "data.num_threads", "data.max_bad_fraction"),
    *("data.read_patience_seconds", "data.decode", "data.ready_mb", "data.cache_dir", "data.cache_gb"),
    *("data.nvjpeg.hw_decoder_load", "data.nvjpeg.hybrid_huffman_threshold", "data.nvjpeg.preallocate_mb"),
    *("encoder.checkpointing", "start.weights", "start.origin", "objective.text.tokenizer"),
    *("objective.teacher.weights", "objective.teacher.origin"),
}


@dataclass(kw_only=True, slots=True)
class RunRecord:
    """What stands in ``run.json``, in the file's order."""

    recipe: str = ""
    """Its name, or ``package.module:function``."""
    argv: list[Any] | None = None
    """The command that began the run, without secrets."""
    run: dict[str, Any] = field(default_factory=dict)
    """The resolved ``Run`` as plain values, without secrets (see ``run_json.py``)."""
    run_key: str | None = None
    """Tells it from all other runs, here and in MLflow."""
    started: str | None = None
    """When it began: ISO 8601, UTC."""
    host: str | None = None
    """Of rank 0."""
    world_size: int | None = None
    """Ranks that it began with."""
    hardware: dict[str, Any] | None = None
    """Processor, cores and GPUs of rank 0's machine."""
    eyespot: str | None = None
    """The version that began it."""
    versions: dict[str, Any] | None = None
    """Of Python and of the packages that decide the numbers."""
    manifest_sha256: str | None = None
    """Of the manifest of its shards, which has those of all tables; of a mixture that of all its sources."""
    mixture: list[dict[str, Any]] | None = None
    """Of each source of a mixture: ``name``, ``shards``, ``manifest_sha256``, ``weight`` or ``repeats`` as fractions,
    ``cap``, and its ``share`` of the samples; None = it is none."""
    tokenizers: dict[str, str] | None = None
    """Of each tokenizer that its views read text with, by name: sha256 of its vocabulary; None = they read none."""
    start: dict[str, Any] | None = None
    """Of the file of its encoder's first weights: ``weights``, ``sha256``, how many tensors were ``loaded``, and into
    how many ``copies`` of the encoder; None where they were drawn."""
    teacher: dict[str, Any] | None = None
    """Of the fixed teacher of its students: the ``model`` that was named, its ``origin`` and ``architecture``, how many
    tensors were ``loaded``, and the ``sha256`` of teacher.safetensors; None where there is none."""
    normalization: dict[str, Any] | None = None
    """Per-channel ``mean`` and ``std`` of its images; see ``mean_and_std``."""
    lane_frame: int | None = None
    """Samples that are dealt to its lanes: its first micro-batch over all ranks; None = it has one lane."""
    git_commit: str | None = None
    """Of the code; empty where it lay in no checkout."""
    git_diff_sha256: str | None = None
    """Of the code's uncommitted changes; empty where there were none."""
    own_code: dict[str, Any] | None = None
    """Of a recipe that is not eyespot's: its file, sha256, and commit and uncommitted changes of its checkout."""

    @property
    def manifests(self) -> tuple[str, ...]:
        """sha256 of the manifest of its shards, of a mixture that of each source; none where it was not written down.

        ``find_shards`` finds the shards of then by it.
        """
        if self.mixture is not None:
            return tuple(str(source.get("manifest_sha256")) for source in self.mixture)
        return () if self.manifest_sha256 is None else (self.manifest_sha256,)

    @staticmethod
    def path(folder: Path) -> Path:
        """Where it stands: in the run folder, and in RUN/cluster before the first start."""
        return folder / NAME

    @classmethod
    def read(cls, path: Path, needed: Collection[str] = ("recipe", "run"), inside: Path | None = None) -> "RunRecord":
        """Reads ``run.json``.

        Args:
            path: the file.
            needed: fields that it must have.
            inside: a folder above it, out of which no link may lead.

        Raises:
            UserError: there is none, it may not be read, or it is damaged.
            OSError: the file system does not answer.
        """
        try:
            values: dict[str, Any] = foreign_json.read(path, dict, LARGEST, inside)
            known = {name: value for name, value in values.items() if value is not None}
            if missing := [name for name in needed if name not in known]:
                raise damaged(path, f"no field {missing[0]}")
            return foreign_json.convert(known, cls, path)
        except (FileNotFoundError, NotADirectoryError) as error:
            if path.name != NAME:
                raise UserError(f"run {path}: no such file or folder; name a run folder, or its {NAME}") from error
            raise UserError(f"run {path.parent}: no {path.name}, so it is not a run folder") from error
        except PermissionError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        except foreign_json.ForeignJsonError as error:
            raise damaged(path, error.why) from error

    def write(self, folder: Path) -> None:
        """Writes it into a folder: whole or not at all, also when the machine dies in the middle."""
        write_bytes(self.path(folder), (self.text() + "\n").encode())

    def text(self) -> str:
        """As JSON."""
        return json.dumps(self.values(), indent=1)

    def values(self) -> dict[str, Any]:
        """As in the file."""
        found = {known.name: getattr(self, known.name) for known in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def mean_and_std(self, folder: Path) -> tuple[Color, Color]:
        """Per channel, what was subtracted from the images, of values in 0..1, and what they were divided by then.

        Args:
            folder: whose record it is, for the message.

        Raises:
            UserError: an older version, which did not write it down, began the run.
        """
        found = self.normalization or {}
        try:
            mean, std = _color(found["mean"]), _color(found["std"])
            if len(mean) != len(std):
                raise ValueError("of other channels")
            return mean, std
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path(folder)}: no field normalization; train the run anew") from error


def damaged(path: Path, why: object) -> UserError:
    """What is said of a ``run.json`` that cannot be used."""
    return UserError(f"{path}: damaged ({why})")


def difference(old: Any, new: Any, prefix: str = "") -> str | None:
    """All fields, outside FREE_FIELDS, in which two runs' plain values differ, in words; None = in none."""
    found: list[str | None] = []
    for name in sorted(old.keys() | new.keys()):
        path = f"{prefix}{name}"
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found.append(difference(before, after, f"{path}."))
        elif before != after and path not in FREE_FIELDS:
            now, then = ("not set" if value is None else repr(value) for value in (after, before))
            found.append(f"{path} is {now}, was {then}")
    return "; ".join(filter(None, found)) or None


def _color(values: Any) -> Color:
    if not values:
        raise ValueError("no channels")
    return tuple(float(value) for value in values)
