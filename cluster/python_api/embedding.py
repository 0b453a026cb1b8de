"""``eyespot.load`` and ``eyespot.embed``: encoders from anywhere, and the features of images from anywhere."""

import json
import logging
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image, ImageOps
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from eyespot.cluster.python_api.plain_errors import plain_errors, refuse_kind
from eyespot.data_pipeline.augment.views import CenterView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.shards.members.items import Item, Source
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.stores.location import Location, location_of
from eyespot.data_pipeline.terminal import one_line
from eyespot.eval.encoders.feature_cache import features_of
from eyespot.eval.encoders.subject import Subject, subjects_of
from eyespot.pretrain.distributed.arithmetic import set_arithmetic
from eyespot.pretrain.distributed.devices import own_device
from eyespot.pretrain.distributed.process_group import World

log = logging.getLogger("eyespot")

SPLITS = ("train", "test", "val")
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Those of PIL's that a PNG keeps; the others become RGB."""


@dataclass(kw_only=True, slots=True, frozen=True)
class LoadedEncoder:
    """An encoder, and what it wants to be shown."""

    source: str
    """What was loaded."""
    subject: Subject

    @property
    def name(self) -> str:
        """For tables: "mae_tiny, step 600"."""
        return self.subject.name

    @property
    def module(self) -> nn.Module:
        """The encoder itself, a timm module without classifier, in evaluation mode, its parameters frozen."""
        return self.subject.encoder

    @property
    def image_size(self) -> int:
        """Height and width of what it sees, pixels."""
        return self._view.size

    @property
    def transform(self) -> Callable[[Image.Image], Float[Tensor, "3 h w"]]:
        """torchvision's way from a PIL image to what the encoder sees; ``embed`` decodes and resizes with DALI, whose
        pixels differ from these by a few levels of 255."""
        view, views = self._view, self.subject.views
        made = create_transform(
            (3, view.size, view.size),
            interpolation=view.interpolation,
            mean=views.mean,
            std=views.std,
            crop_pct=view.size / view.resize,
            crop_mode=view.mode,
        )
        return cast(Any, made)

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> Tensor:
        """What timm's own forward pass makes of images as ``transform`` gives them."""
        return self.module(images)

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.module.parameters())
        return f"LoadedEncoder({self.name!r}, {count:,} parameters, images of {self.image_size} px)"

    @property
    def _view(self) -> CenterView:
        view = self.subject.views.views[0]
        assert isinstance(view, CenterView)
        return view


@plain_errors
def load(source: str | Path, *, pretrained: bool = True) -> LoadedEncoder:
    """An encoder from whatever holds one.

    Args:
        source: a run folder (its newest checkpoint counts), one of its checkpoints, a release, a folder of timm's local
            format, ``models:/NAME@ALIAS`` of MLflow's registry, ``hf://ORG/NAME`` of a hub, or a name of timm's.
        pretrained: for timm's names: with published weights, which needs a network the first time.

    Raises:
        UserError: there is no such thing, or it is damaged.
        Outage: a hub or registry does not answer.
    """
    refuse_kind("source", source, (str, Path), "give a run folder, a checkpoint, a release or a name of timm's")
    return LoadedEncoder(source=str(source), subject=subjects_of(str(source), seed=0, pretrained=pretrained)[0])


@dataclass(kw_only=True, slots=True, frozen=True, repr=False)
class Embeddings:
    """Features of images, one row each; ``numpy.asarray`` gives the rows."""

    rows: Float32[np.ndarray, "n d"]
    ids: list[str] | list[int]
    """Of each row: a path inside the folder; the place in a list; the sample id in shards."""
    kind: str
    """Which features: "cls", "mean" (of all patches) or "pool" (the encoder's own head)."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.rows, dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Embeddings({len(self.rows):,} rows of {self.rows.shape[1]}, kind {self.kind!r})"


@plain_errors
def embed(
    encoder: LoadedEncoder | str | Path,
    images: Any,
    *,
    kind: str = "",
    device: str = "auto",
    cache: str | Path | None = None,
) -> Embeddings:
    """The features of images, computed as ``eyespot eval`` does: decoded and resized by DALI, in single precision.

    Under torchrun each process that calls it computes all rows; ``eyespot eval`` divides them among processes.

    Args:
        encoder: from ``load``, or what that takes.
        images: a shard folder, all of whose samples count (of one with train/ inside, these); any other source that
            ``eyespot shards pack`` takes, such as a folder of images; or images: paths, PIL images, and arrays of
            (h, w, 3) or (h, w), uint8; or one such array or PIL image. Photographs are turned upright. Images are
            copied into a temporary folder first, shards are read in place.
        kind: "cls", "mean" or "pool"; "" = what the encoder has first, in that order.
        device: "auto", "cpu" or "cuda".
        cache: folder in which the features are kept, and found again; None = nowhere.

    Returns:
        Rows in the order of the images, and in that of their names where a folder was given. Images that cannot be
        decoded have no row, and are named in a warning.

    Raises:
        UserError: there are no images, none can be decoded, or the encoder has no features of that kind.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {device!r}: choose auto, cpu or cuda")
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and _is_picture(images)):
        images = [images]
    if not isinstance(images, str | Path | Iterable):
        raise UserError(f"images: a {type(images).__name__}; give a folder, shards, or a list of images")
    refuse_kind("encoder", encoder, (LoadedEncoder, str, Path), "give what eyespot.load returns, or takes")
    refuse_kind("kind", kind, str, "choose cls, mean or pool")
    refuse_kind("cache", cache, (str, Path, type(None)), "give a folder")
    loaded = encoder if isinstance(encoder, LoadedEncoder) else load(encoder)
    with tempfile.TemporaryDirectory(prefix="eyespot-") as room, _shards(images, Path(room)) as (shards, order, ids):
        world = World(rank=0, size=1, device=own_device(device, int(os.environ.get("LOCAL_RANK", 0))))
        set_arithmetic(world.device)
        found = _features(loaded.subject, shards, Path(cache or f"{room}/features"), world)
        chosen = kind or next(one for one in ("cls", "mean", "pool", *found) if one in found)
        if chosen not in found:
            raise UserError(f"kind {kind!r}: {loaded.name} has features of the kinds {', '.join(found)}")
        return Embeddings(rows=np.array(found[chosen])[order], ids=ids, kind=chosen)


def _features(subject: Subject, shards: ShardFolder, cache: Path, world: World) -> dict[str, Any]:
    try:
        return dict(features_of(subject, shards, cache, world))
    except UserError as error:  # the command calls the folder otherwise
        raise UserError(str(error).replace("--out", "cache")) from error


@contextmanager
def _shards(
    images: str | Path | Iterable[Any], room: Path
) -> Iterator[tuple[ShardFolder, np.ndarray, list[str] | list[int]]]:
    """Shards of the images; which of their samples, in which order; and what each is called."""
    if isinstance(images, str | Path) and _is_shards(location_of(images)):
        shards = find_shards(images, *SPLITS)
        ids = list(range(shards.manifest.num_samples))
        yield shards, np.arange(len(ids)), ids
        return
    if isinstance(images, str | Path):
        packed = pack(str(images), room / "shards", workers=1)
        if list(packed) != [""]:
            raise UserError(f"images {images}: has the splits {', '.join(packed)}; name one of these folders")
    else:
        packed = pack(lambda spool: _listed(images, spool), room / "shards", workers=1)
    for bad in packed[""].quarantined:
        log.warning("%s", one_line(f"no features of {bad['source']}: {bad['reason']}"))
    shards = ShardFolder(room / "shards")
    names = _sources(shards, room)
    if isinstance(images, str | Path):
        order = np.array(sorted(range(len(names)), key=names.__getitem__))
        yield shards, order, [names[row] for row in order]
        return
    places = np.array([int(Path(name).name) for name in names])
    order = np.argsort(places)
    yield shards, order, places[order].tolist()


def _is_shards(path: Location) -> bool:
    if not isinstance(path, Path):
        return True  # in a store there is nothing else that could be read
    return any((folder / "manifest.json").is_file() for folder in (path, *(path / split for split in SPLITS)))


def _listed(images: Iterable[Any], spool: Path) -> Source:
    """Items called 00000000, 00000001, ...; what is no file yet is written into the spool."""
    items: list[Item] = []
    for number, image in enumerate(images):
        path = Path(image) if isinstance(image, str | Path) else _written(image, spool / f"{number:08d}.png", number)
        if not path.is_file():
            raise UserError(f"images[{number}] {path}: no such file")
        items.append(Item(f"{number:08d}", -1, str(path), 0, path.stat().st_size))
    if not items:
        raise UserError("images: there are none")
    return Source(name="images", splits={"": items})


def _is_picture(array: np.ndarray) -> bool:
    """Whether it is one image, and no row of them."""
    return array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)


def _written(image: Any, path: Path, number: int) -> Path:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not _is_picture(image):
            raise UserError(
                f"images[{number}]: an array of {image.dtype} {image.shape}; arrays are uint8, (h, w, 3) or (h, w)"
            )
        if not image.size:
            raise UserError(f"images[{number}]: an array of {image.shape}, in which there is no pixel")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UserError(f"images[{number}]: a {type(image).__name__}; give paths, PIL images or arrays")
    try:
        upright = ImageOps.exif_transpose(image)
        kept = upright if upright.mode in _PNG_MODES else upright.convert("RGB")
        kept.save(path, compress_level=1)
    except (OSError, ValueError) as error:  # of a closed image, or one without pixels
        raise UserError(f"images[{number}]: a PIL image of mode {image.mode} that cannot be kept ({error})") from error
    return path


def _sources(shards: ShardFolder, room: Path) -> list[str]:
    """What each sample was called in what the shards were packed from, by sample id."""
    names: list[str] = []
    for shard in shards.manifest.shards:
        with tarfile.open(room / "shards" / shard.tar) as tar:
            notes = [tar.extractfile(member) for member in tar if member.name.endswith(".json")]
            names += [json.loads(note.read())["source"] for note in notes if note is not None]
    return names
