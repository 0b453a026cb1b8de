"""An encoder's 8-bit form, and what it loses: cosines of its features, and probes beside those of the encoder."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from eyespot.data_pipeline.augment.views import ViewSpec, center_view
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.protocols import knn, linear
from eyespot.eval.protocols.labeled_data import LabeledData, Part, labeled_data
from eyespot.eval.protocols.task import Candidate, Task, stratified_split
from eyespot.eval.release.exports.int8 import NUM_IMAGES, quantize
from eyespot.eval.release.exports.onnx_export import OnnxEncoder, export_onnx
from eyespot.eval.release.golden import INT8_PREFIX
from eyespot.eval.release.layout import INT8, ONNX
from eyespot.eval.release.provenance import Origin
from eyespot.eval.results.significance import paired_interval
from eyespot.pretrain.networks.encoders import encode

MOST_LOST = 0.02
"""Of a probe's accuracy: more, and it is no release of this encoder. Chance alone refuses nothing: the interval of the
difference must lie below zero too."""
MOST_IMAGES = 50_000
"""Of train, and of test, whose features are computed: on the CPU, and held in memory four times over."""
_BATCH = 64
_PROBES = {"linear": linear.candidates, "knn": knn.candidates}

_TEXT = """\
The encoder in 8-bit integers (ONNX, QDQ; convolutions and matrix products): {share:.0%} of the bytes of `model.onnx`,
whose input and outputs it has. Ranges were measured on {num_images} images of training. What it loses on {data}
({split}), each probe learned from the features that it judges:

| probe | encoder | in 8 bits | difference | 95 % interval |
| --- | --- | --- | --- | --- |
{rows}

Cosine of its features with the encoder's, mean over {tested:,} test images: {cosines}.
`int8.*` in `golden.safetensors` are its answers to the golden input (onnxruntime {runtime})."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Loss:
    """One probe on both."""

    probe: str
    float32: float
    """Accuracy on test, 0..1, of the encoder."""
    int8: float
    """Of its 8-bit form."""
    interval: tuple[float, float]
    """95 % of int8 - float32, paired by test image."""


class Int8:
    """Writes model-int8.onnx of a release and measures it; for ``release(int8=...)``.

    Args:
        shards: labelled, to measure on; as ``eyespot eval`` takes them.
        seed: of the images that calibrate, and of what is held out.
    """

    def __init__(self, shards: Path, seed: int = 0) -> None:
        self._shards, self._seed = shards, seed

    def __call__(
        self, folder: Path, origin: Origin, encoder: nn.Module, golden: dict[str, Tensor]
    ) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """Writes the file; returns what the card and provenance.json say, and its golden answers.

        Raises:
            UserError: a package or the training images are missing, or it loses too much.
        """
        data = _at_most(labeled_data(find_shards(self._shards, "train"), self._seed), self._seed)
        mean, std = origin.record.mean_and_std(origin.run_dir)
        views = ViewSpec(views=(center_view(origin.run.encoder.image_size),), mean=mean, std=std)
        images = self._calibration(origin, data, views)
        model = folder / ONNX
        known = model.exists()
        if not known:
            export_onnx(encoder, golden, model, "--int8")
        quantize(model, images, folder / INT8)
        share = (folder / INT8).stat().st_size / model.stat().st_size
        if not known:
            model.unlink()
        small = OnnxEncoder(folder / INT8)
        losses, cosines = _measured(encoder, small, data, views, self._seed)
        for loss in losses:
            if loss.int8 < loss.float32 - MOST_LOST and loss.interval[1] < 0:
                raise UserError(
                    f"--int8: in 8 bits the {loss.probe} probe falls from {loss.float32:.2%} to {loss.int8:.2%}, more"
                    f" than {MOST_LOST:.0%}; release it without --int8"
                )
        said = {
            "calibration_images": len(images),
            "data": data.name,
            "test_sha256": data.test.digest(),
            "losses": [asdict(loss) for loss in losses],
            "cosines": cosines,
            "onnxruntime": version("onnxruntime"),
        }
        text = _TEXT.format(
            share=share,
            num_images=len(images),
            data=data.name,
            split=data.split,
            rows="\n".join(map(_row, losses)),
            tested=data.test.size,
            cosines=", ".join(f"{name} {value:.5f}" for name, value in cosines.items()),
            runtime=said["onnxruntime"],
        )
        answers = {f"{INT8_PREFIX}{name}": rows for name, rows in small(golden["input"]).items()}
        return text, said, answers

    def _calibration(self, origin: Origin, data: LabeledData, views: ViewSpec) -> Float[Tensor, "n 3 h w"]:
        """Images of training, none of which is tested on."""
        try:
            shards = find_shards(origin.run.data.shards or "", versions=origin.record.manifests)
        except (UserError, OSError) as error:
            raise UserError(
                f"--int8: needs the images of training, {origin.run.data.shards}, for ranges: {error}"
            ) from error
        rows = np.arange(shards.manifest.num_samples) if origin.run.data.ids is None else None
        if rows is None or shards.manifest_sha256 != origin.record.manifest_sha256:
            raise UserError(
                f"--int8: {origin.run.data.shards} no longer holds what the run was trained on, or it saw a part of it;"
                " ranges are measured on images of training"
            )
        if shards.manifest.index_sha256 == data.test.shards.manifest.index_sha256:
            rows = np.setdiff1d(rows, data.test.rows)
        if not len(rows):
            raise UserError(
                f"--int8 {self._shards}: every image that the run was trained on is tested on, so none is left for"
                " ranges; name other labelled shards"
            )
        generator = np.random.default_rng(self._seed)
        chosen = np.sort(generator.permutation(rows)[:NUM_IMAGES])
        return torch.cat([images for _, images in _views(shards, views, chosen)])


def _at_most(data: LabeledData, seed: int) -> LabeledData:
    """The data with so many images of each part at most, of each class its share; its split says so."""
    parts, split = dict[str, Part](), data.split
    for name, part in (("train", data.train), ("test", data.test)):
        if part.size > MOST_IMAGES:
            kept, _ = stratified_split(part.labels, 1 - MOST_IMAGES / part.size, seed)
            parts[name] = replace(part, rows=part.rows[kept], labels=part.labels[kept])
            split += f"; {len(kept):,} of {part.size:,} images of {name} (seed {seed})"
    return replace(data, **parts, split=split)


def _measured(
    encoder: nn.Module, small: OnnxEncoder, data: LabeledData, views: ViewSpec, seed: int
) -> tuple[list[Loss], dict[str, float]]:
    """Both probes on both encoders, and the mean cosine of each kind of features on test."""
    whole, rounded = dict[str, dict[str, Tensor]](), dict[str, dict[str, Tensor]]()
    for name, part in (("train", data.train), ("test", data.test)):
        whole[name], rounded[name] = _features(encoder, small, part, views, name)
    cosines = {
        kind: round(float(cosine_similarity(rows, rounded["test"][kind]).mean()), 6)
        for kind, rows in whole["test"].items()
    }
    losses = []
    for probe, candidates in _PROBES.items():
        right = [_right(candidates(_task(found, data, seed)), data) for found in (whole, rounded)]
        only_small, only_whole = (int((a & ~b).sum()) for a, b in ((right[1], right[0]), (right[0], right[1])))
        ends = paired_interval(only_small, only_whole, data.test.size)
        losses.append(Loss(probe=probe, float32=right[0].mean(), int8=right[1].mean(), interval=ends))
    return losses, cosines


def _features(
    encoder: nn.Module, small: OnnxEncoder, part: Part, views: ViewSpec, name: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    whole, rounded = dict[str, list[Tensor]](), dict[str, list[Tensor]]()
    with ProgressBar(f"features of {name}, float32 and int8", part.size, transient=True) as bar:
        for count, images in _views(part.shards, views, part.rows):
            with torch.inference_mode():
                own = {f"{kind}_features": rows for kind, rows in encode(encoder, images).items()}
            for found, made in ((whole, own), (rounded, small(images))):
                for kind, rows in made.items():
                    found.setdefault(kind, []).append(rows.clone())
            bar.advance(count)
    return _joined(whole), _joined(rounded)


def _joined(found: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    return {kind: torch.cat(rows) for kind, rows in found.items()}


def _views(shards: ShardFolder, views: ViewSpec, rows: np.ndarray) -> Iterator[tuple[int, Float[Tensor, "b 3 h w"]]]:
    with closing(make_pass(LoaderSpec(shards=shards, views=views, ids=rows, batch_size=_BATCH))) as batches:
        for batch in batches:
            yield len(batch.ids), batch.views[0].clone()


def _task(found: dict[str, dict[str, Tensor]], data: LabeledData, seed: int) -> Task:
    labels = [torch.from_numpy(part.labels) for part in (data.train, data.test)]
    num_classes = max(len(data.classes), int(data.train.labels.max(initial=-1)) + 1)
    return Task(
        train=found["train"],
        train_labels=labels[0],
        test=found["test"],
        test_labels=labels[1],
        num_classes=num_classes,
        seed=seed,
    )


def _right(candidates: list[Candidate], data: LabeledData) -> np.ndarray:
    """Which test images the candidate has right that is best where settings are chosen."""
    best = max(candidates, key=lambda candidate: candidate.validation or 0.0)
    return best.predictions == data.test.labels


def _row(loss: Loss) -> str:
    low, high = loss.interval
    worse = " (worse)" if high < 0 else ""
    return (
        f"| {loss.probe} | {loss.float32:.2%} | {loss.int8:.2%} | {loss.int8 - loss.float32:+.2%}{worse} |"
        f" {low:+.2%} to {high:+.2%} |"
    )
