"""provenance.json: where an encoder comes from, as far as its run folder and this machine can tell."""

import importlib
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import eyespot
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.eval.release.layout import FORMAT
from eyespot.eval.results.result import Result, results_in
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.folders import complete, newest
from eyespot.pretrain.checkpoints.weight_files import EMA
from eyespot.pretrain.config import Run
from eyespot.pretrain.loop.environment import code_state
from eyespot.pretrain.loop.initial_weights import encoder_config
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.redaction import masked_values
from eyespot.pretrain.run_json import load_run
from eyespot.pretrain.run_record import RunRecord


@dataclass(kw_only=True, slots=True)
class Origin:
    """A checkpoint of a run, and what the run folder says of both."""

    run_dir: Path
    recipe: str
    run: Run
    record: RunRecord
    folder: Path
    """The checkpoint."""
    meta: checkpoint.Meta
    weights: Literal["trained", "ema", "average"] = "trained"
    """Those of the checkpoint; their moving average in it; or the average of several checkpoints."""
    average: list[dict[str, Any]] = field(default_factory=list)
    """Of which ones."""
    student: str = ""
    """Which of the run's further students is meant; empty = its own encoder."""

    def encoder(self) -> EncoderConfig:
        """How it is made."""
        return encoder_config(self.run, self.student)

    def part(self) -> str:
        """Which encoder of the checkpoint is meant (``initial_weights.trained_encoder``)."""
        return EMA if self.weights == "ema" else self.student

    def method(self) -> str:
        """The first line of the objective's file: the method, its paper and authors."""
        module = importlib.import_module(type(self.run.objective).__module__)
        return (module.__doc__ or type(self.run.objective).__qualname__).strip().splitlines()[0]

    def sees_labels(self) -> bool:
        """Whether the method is told what is in the images."""
        return self.run.objective.needs_labels() != "none"

    def results(self) -> list[Result]:
        """What was measured of this checkpoint, each followed by its random twin's result where there is one."""
        found = results_in(self.run_dir)
        own = [result for result in found if result.role == "encoder" and self._judges(result)]
        pairs = [[result, *(other for other in found if _twins(result, other))][:2] for result in own]
        return [result for pair in pairs for result in pair]

    def data(self) -> dict[str, Any]:
        """Name and counts of the training data, where the shards that the run saw are still there; always the hash."""
        said: dict[str, Any] = {"manifest_sha256": self.record.manifest_sha256 or ""}
        try:
            shards = find_shards(self.run.data.shards or "", versions=self.record.manifests)
        except (UserError, Outage, OSError):
            return said
        if shards.manifest_sha256 != said["manifest_sha256"]:
            return said
        manifest = shards.manifest
        return {
            "name": manifest.name,
            "num_images": manifest.num_samples,
            "num_classes": len(manifest.classes),
            "height": manifest.image_stats.height,
            "width": manifest.image_stats.width,
            **said,
        }

    def parents(self) -> list[dict[str, Any]]:
        """What the run's first weights came from: another run's checkpoint, or a file of weights."""
        found: list[dict[str, Any]] = []
        resume = self.run.resume
        if resume not in ("never", "auto"):
            parent: dict[str, Any] = {"checkpoint": resume}
            if (Path(resume) / "meta.json").is_file():
                meta = checkpoint.read_meta(Path(resume))
                parent |= {"run_key": meta.run_key, "step": meta.step}
            found.append(parent)
        asked, begun = self.record.run.get("start") or {}, self.record.start or {}
        if begun or asked.get("weights"):
            place = Path(str(begun.get("weights") or asked.get("weights") or "")).name
            parent = {"origin": asked.get("origin") or begun.get("model") or place}
            sha256 = begun.get("sha256") or asked.get("sha256")
            found.append(parent | ({"weights_sha256": sha256} if sha256 else {}))
        return found

    def _judges(self, result: Result) -> bool:
        ours = (result.origin.get(name, usual) for name, usual in (("checkpoint", ""), ("student", "")))
        return (*ours, result.origin.get("weights", "trained")) == (self.folder.name, self.student, self.weights)


def origin_of(run_dir: Path, name: str | None = None, student: str = "") -> Origin:
    """Reads what a run folder says of one of its checkpoints.

    Args:
        run_dir: the run folder.
        name: of the checkpoint, ``step-00000012``; None = the newest.
        student: one of the run's further students; empty = its own encoder.

    Raises:
        UserError: there is no such run, checkpoint or student, or it is damaged.
    """
    recipe, run = load_run(run_dir)
    encoder_config(run, student)
    there = {folder.name: folder for folder in complete(run_dir)}
    if not there:
        raise UserError(f"run {run_dir}: has no complete checkpoint yet; wait for the first one or train on")
    folder = there.get(name) if name else newest(run_dir)
    if folder is None:
        raise UserError(f"--checkpoint {name}: run {run_dir} has {', '.join(there)}")
    record = RunRecord.read(RunRecord.path(run_dir))
    meta = checkpoint.read_meta(folder)
    return Origin(run_dir=run_dir, recipe=recipe, run=run, record=record, folder=folder, meta=meta, student=student)


def provenance_of(origin: Origin, name: str, config: dict[str, Any], weights_sha256: str) -> dict[str, Any]:
    """What provenance.json says, without secrets.

    Args:
        origin: run and checkpoint.
        name: of the release.
        config: the release's config.json.
        weights_sha256: of model.safetensors.
    """
    record, run, meta, asked = origin.record, origin.run, origin.meta, config["pretrained_cfg"]
    now = code_state()
    return masked_values(
        {
            "format": FORMAT,
            "name": name,
            "license": asked["license"],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights_sha256": weights_sha256,
            "architecture": config["architecture"],
            "input": {name: asked[name] for name in ("mean", "std", "input_size", "crop_pct", "interpolation")},
            "method": origin.method(),
            "recipe": origin.recipe,
            "checkpoint": origin.folder.name,
            "step": meta.step,
            **({} if origin.weights == "trained" else {"weights": origin.weights}),
            **({"average": origin.average} if origin.average else {}),
            "samples_seen": meta.loader.get("samples_consumed", meta.step * run.data.batch_size),
            "seed": run.seed,
            "data": origin.data(),
            "parents": origin.parents(),
            **({"teacher": record.teacher} if record.teacher else {}),
            **({"student": origin.student} if origin.student else {}),
            "code": {
                "git_commit": record.git_commit or "",
                "git_diff_sha256": record.git_diff_sha256 or "",
                "dirty": bool(record.git_diff_sha256),
                "eyespot": record.eyespot or "",
                **({"own": record.own_code} if record.own_code else {}),
            },
            "versions": record.versions or {},
            "hardware": record.hardware or {},
            "world_size": meta.world_size,
            "engine": meta.engine,
            "precision": meta.precision,
            "released_by": {"eyespot": eyespot.__version__, **now, "dirty": bool(now["git_diff_sha256"])},
            "run_key": meta.run_key,
            "run": record.values(),
            "results": [asdict(result) for result in origin.results()],
        }
    )


def paper_of(method: str) -> list[str]:
    """The arXiv numbers in the first line of an objective's file."""
    return re.findall(r"arXiv:(\d{4}\.\d{4,5})", method)


def _twins(result: Result, other: Result) -> bool:
    same = ("protocol", "data", "split", "test_sha256", "train_sha256", "seed")
    return other.role == "random" and all(getattr(result, name) == getattr(other, name) for name in same)
