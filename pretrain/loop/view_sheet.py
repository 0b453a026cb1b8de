"""The views that a recipe makes, as a picture: augmentation is best judged by eye."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eyespot.data_pipeline.augment.views import CenterView, MaskView, ViewSpec
from eyespot.data_pipeline.loading.bands.band_views import channels_of
from eyespot.data_pipeline.loading.batch_maker import BatchMaker
from eyespot.data_pipeline.loading.cpu_share import cpu_share
from eyespot.data_pipeline.loading.members.text_views import read_captions
from eyespot.data_pipeline.loading.mixtures.stream_order import order_of
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.loading.sample_files import SampleFiles
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.video.contact_sheet import MASK_COLORS
from eyespot.pretrain.config import Run
from eyespot.pretrain.images.image_grid import write_picture
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.loop.run_data import check_bands, lane_frame, normalized_views

NUM_EPOCHS = 3


def draw_views(run: Run, shards: ShardFolder, path: Path, num_samples: int) -> tuple[int, int]:
    """Writes a PNG of ``view_grid``.

    Returns:
        How many rows, and how many images of views each epoch has.
    """
    grid, spec = view_grid(run, shards, num_samples)
    write_picture(grid, spec, path)
    return len(grid), num_columns(spec)


def shown_captions(run: Run, shards: ShardFolder, num_samples: int) -> list[list[str]]:
    """Those of the first samples that the run sees, a list for each row of ``view_grid``; none where shards have none.

    Raises:
        UserError: the table of captions, or a caption, is damaged.
    """
    if "txt" not in shards.manifest.members:
        return []
    return read_captions(shards, _first_ids(run, shards, num_samples))


def _first_ids(run: Run, shards: ShardFolder, num_samples: int) -> np.ndarray:
    data, chosen = run.data, shards.chosen(None)
    how = dict(shuffle_window=data.shuffle_window, lanes=data.lanes, frame=lane_frame(run))
    order = order_of(shards, chosen, run.seed, **how)
    places, _ = order.ids(0, min(num_samples, order.num_samples))
    return places if chosen is None else chosen[places]


def num_columns(spec: ViewSpec) -> int:
    """How many images the views of one epoch take: one for each view, of a clip one for each frame."""
    return sum(view.clip.frames if view.clip else 1 for view in spec.images)


def view_grid(run: Run, shards: ShardFolder, num_samples: int) -> tuple[Float[Tensor, "rows columns c h w"], ViewSpec]:
    """A row for each of the first samples that the run sees: the image's middle, then its views.

    The views are those of the first NUM_EPOCHS epochs, in order, a clip as the strip of its frames; texts are left out.
    What a mask view tells apart is tinted in the view that it is of. A view smaller than the largest lies on white.

    Returns:
        The grid, in the normalised values of the views, and the views.
    """
    if shards.manifest.bands:
        run = replace(run, encoder=replace(run.encoder, channels=channels_of(shards.manifest)))
    objective = fresh_objective(run)
    check_bands(run, objective, shards)
    spec = (
        normalized_views(objective.views(), run.data, shards.manifest) if shards.manifest.bands else objective.views()
    )
    size = max(view.size for view in spec.images)
    with_image = replace(spec, views=(*spec.views, CenterView(resize=size, size=size)))
    epochs = _batches(with_image, shards, _first_ids(run, shards, num_samples), run.seed)
    columns = [
        epochs[0][-1],
        *(image for views in epochs for view in _tinted(views[:-1], spec, shards) for image in _images(view)),
    ]
    return torch.stack([_on_white(view, size, spec) for view in columns], dim=1), spec


def _batches(spec: ViewSpec, shards: ShardFolder, ids: np.ndarray, seed: int) -> list[list[Tensor]]:
    """The views of the same samples in each epoch."""
    files = SampleFiles(shards, spec, seed)
    maker = BatchMaker(
        Reader(shards, substitute=True, index=files.table),
        [(ids, np.full_like(ids, epoch)) for epoch in range(NUM_EPOCHS)],
        spec,
        batch_size=len(ids),
        seed=seed,
        device=torch.device("cpu"),
        num_threads=cpu_share(),
        max_bad_fraction=1.0,
        files=files,
    )
    try:
        return [made.batch.views for made in maker]
    finally:
        maker.close()


def _tinted(made: Sequence[Tensor], spec: ViewSpec, shards: ShardFolder) -> list[Tensor]:
    """The views of images; half of a pixel's colour is its class's where a mask shows one, other than 0."""
    ignored = shards.manifest.masks.ignored if shards.manifest.masks else None
    if not any(isinstance(view, MaskView) for view in spec.views):
        return spec.images_among(made)
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    colors = (torch.from_numpy(MASK_COLORS / 255).float()[:, :, None, None] - mean) / std
    shown = list(made)
    for mask, view in zip(made, spec.views, strict=True):
        if not isinstance(view, MaskView):
            continue
        for number, color in enumerate(colors):
            there = (mask != 0) & (mask != (-1 if ignored is None else ignored))
            there &= (mask.int() - 1) % len(colors) == number
            shown[view.of] = torch.where(there, (shown[view.of].float() + color) / 2, shown[view.of])
    return spec.images_among(shown)


def _images(view: Tensor) -> Sequence[Float[Tensor, "b c h w"]]:
    """Of a view itself, of a clip its frames."""
    return (view,) if view.ndim == 4 else view.unbind(1)


def _on_white(view: Float[Tensor, "b c h w"], size: int, spec: ViewSpec) -> Float[Tensor, "b c size size"]:
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    canvas = ((1 - mean) / std).expand(len(view), spec.channels, size, size).clone()
    height, width = view.shape[2:]
    top, left = (size - height) // 2, (size - width) // 2
    canvas[:, :, top : top + height, left : left + width] = view
    return canvas
