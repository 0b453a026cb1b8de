"""The average of several checkpoints' encoders: of one run, or of runs that differ in seed and settings alone.

Wortsman et al. 2022, "Model soups" (arXiv:2203.05482): the uniform one. Weights of runs that did not begin with the
same ones need not lie in one valley: judge what comes of it.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from eyespot.data_pipeline.augment.views import ViewSpec, center_view
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_selection
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.eval.release.provenance import Origin, origin_of
from eyespot.pretrain.checkpoints.folders import complete
from eyespot.pretrain.loop.initial_weights import trained_encoder
from eyespot.pretrain.run_record import RunRecord

LAST = "last:"
"""Before a number: so many newest checkpoints of the run."""
NUM_IMAGES = 2048
"""Of the run's own, whole, from which running statistics are taken anew."""


@dataclass(kw_only=True, slots=True)
class Soup:
    """What went in, oldest first by the order of names."""

    members: list[Origin]

    def said(self) -> list[dict[str, Any]]:
        """For provenance.json."""
        return [
            {
                "run_key": each.meta.run_key,
                "recipe": each.recipe,
                "seed": each.run.seed,
                "checkpoint": each.folder.name,
                "step": each.meta.step,
                "files_sha256": each.meta.files,
            }
            for each in self.members
        ]


def soup_of(run_dir: Path, names: tuple[str, ...]) -> Soup:
    """The checkpoints that ``names`` mean, all of one architecture, method and normalisation.

    Args:
        run_dir: the run folder.
        names: of its checkpoints; or paths of other runs' checkpoints; or one ``last:N``.

    Raises:
        UserError: one is missing, named twice, alone, or unlike the others.
    """
    if len(names) == 1 and names[0].startswith(LAST):
        count, there = names[0].removeprefix(LAST), complete(run_dir)
        if not (count.isascii() and count.isdigit() and 2 <= int(count) <= len(there)):
            raise UserError(
                f"--average {names[0]}: must be {LAST}2 to {LAST}{len(there)}, as many as {run_dir} has kept"
            )
        names = tuple(folder.name for folder in there[-int(count) :])
    members = [_member(run_dir, name) for name in names]
    places = [each.folder.resolve() for each in members]
    if len(set(places)) < max(2, len(places)):
        raise UserError(f"--average {' '.join(names)}: must be two checkpoints or more, each named once")
    first = _kind(members[0])
    for name, each in zip(names, members, strict=True):
        for what, theirs in _kind(each).items():
            if (ours := first.get(what)) != theirs:
                raise UserError(
                    f"--average {name}: its {what} {theirs} is not that of {names[0]}, {ours}; leave it out"
                )
    return Soup(members=members)


def averaged_encoder(soup: Soup) -> nn.Module:
    """The mean of the members' encoders, in float64 before it is rounded; in evaluation mode.

    Running statistics of batch norm are taken anew, of whole images that the first run learned from.

    Raises:
        UserError: a checkpoint is damaged, or there are batch norms and the images are not at hand.
    """
    first = soup.members[0]
    encoder, count = trained_encoder(first.run, first.folder), len(soup.members)
    sums = {name: tensor.double() / count for name, tensor in encoder.state_dict().items()}
    for each in soup.members[1:]:
        for name, tensor in trained_encoder(each.run, each.folder).state_dict().items():
            sums[name] += tensor.double() / count
    encoder.load_state_dict({name: sums[name].to(tensor.dtype) for name, tensor in encoder.state_dict().items()})
    if any(isinstance(part, _BatchNorm) for part in encoder.modules()):
        update_bn(_images(first), encoder)
    return encoder.eval().requires_grad_(False)


def _member(run_dir: Path, name: str) -> Origin:
    if len(Path(name).parts) == 1 and (run_dir / "checkpoints" / name).is_dir():
        return origin_of(run_dir, name)
    folder = Path(name)
    if not ((folder / "meta.json").is_file() and RunRecord.path(folder.absolute().parents[1]).is_file()):
        raise UserError(f"--average {name}: neither a checkpoint of {run_dir} nor the path of one of another run")
    return origin_of(folder.absolute().parents[1], folder.absolute().name)


def _kind(origin: Origin) -> dict[str, Any]:
    """What must be the same; how a run trains its encoder (drop_path, checkpointing) is not what it is."""
    mean, std = origin.record.mean_and_std(origin.run_dir)
    encoder = asdict(origin.run.encoder)
    return {
        **{f"encoder.{name}": value for name, value in encoder.items() if name not in ("drop_path", "checkpointing")},
        "method": type(origin.run.objective).__qualname__,
        "mean and std": f"{mean} {std}",
    }


def _images(origin: Origin) -> Iterator[Tensor]:
    run = origin.run
    try:
        shards = find_shards(run.data.shards or "", versions=origin.record.manifests)
    except UserError as error:
        raise UserError(
            f"--average: encoder {run.encoder.name} has batch norms, whose statistics must be taken anew from the run's"
            f" images, and these are not at hand: {error}"
        ) from error
    mean, std = origin.record.mean_and_std(origin.run_dir)
    views = ViewSpec(views=(center_view(run.encoder.image_size),), mean=mean, std=std)
    ids = np.sort(np.random.default_rng(run.seed).permutation(shards.manifest.num_samples)[:NUM_IMAGES])
    with closing(make_selection(LoaderSpec(shards=shards, views=views, batch_size=128), ids)) as batches:
        for batch in batches:
            yield batch.views[0]
