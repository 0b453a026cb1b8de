"""Features of a whole data set, computed once: cached by what determines them.

    CACHE/<key>/cls.npy, mean.npy   float32, row = sample id; the key is a digest of weights, architecture,
                                    transform and the shards' index
    CACHE/<key>/meta.json           of what

A folder is complete or absent; until then it is called ``<key>.tmp`` and says which rows are there, so that an
interrupted computation goes on, on any number of ranks. Every sample is encoded at place ``id % BLOCK`` of a batch of
exactly BLOCK images (zeros where another rank's samples would stand), so a row's last bit depends neither on the number
of ranks nor on its neighbours: matrix products round differently in batches of another size. Of clips as many fewer
make a block as they have frames.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from eyespot.data_pipeline import file_locks
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.loading.sample_files import complete_samples, members_shown
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.noise_level import with_noise
from eyespot.eval.encoders.sound_tower import only_sounds
from eyespot.eval.encoders.subject import OfClips, OneKind, Subject, encode_all
from eyespot.eval.search.row_file import DONE, RowFile, reserve
from eyespot.pretrain.distributed.arithmetic import rounds_to_tf32
from eyespot.pretrain.distributed.collectives import agreed, any_rank, barrier
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.encoders import pools_itself
from eyespot.pretrain.redaction import masked_values

BLOCK = 128
FORMAT = "eyespot-features/1"


def features_key(subject: Subject, shards: ShardFolder, num_blocks: int = 1) -> str:
    """Digest of everything that determines the features: subject, data, and how they are computed."""
    parts = [FORMAT, str(BLOCK), subject.digest(), shards.manifest.index_sha256]
    if num_blocks != 1 and subject.role != "pixels":
        parts.append(f"{num_blocks} blocks")
    if subject.noise_level:
        parts.append("noise of the folder's own")  # older versions made the same for each
    frames = shards.manifest.frames
    if isinstance(subject.encoder, OfClips) and frames is not None:
        parts += [frames.frames_sha256, frames.clips_sha256]
    elif not isinstance(subject.encoder, OneKind) and pools_itself(subject.encoder, subject.views.images[0].size):
        parts.append("own pooling")  # which older versions did not keep
    if rounds_to_tf32():
        parts.append("tf32")
    parts += [shards.manifest.members[each.extension].sha256 for each in members_shown(subject.views, shards)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def features_of(
    subject: Subject, shards: ShardFolder, cache: Path, world: World, num_blocks: int = 1
) -> dict[str, np.ndarray]:
    """The subject's features of every sample, all ranks together: {"cls": (N, D), "mean": ...}, memory-mapped.

    Samples that lack what the subject's views show have zeros.

    Computed if they are not in the cache; a second process that wants the same ones waits for the first.

    Args:
        subject: whose features.
        shards: which samples.
        cache: folder of the cache, shared by all ranks.
        world: this process; the ranks share the samples.
        num_blocks: features of how many of the last blocks: of the one before the last "cls-2", "mean-2", and so on.

    Raises:
        UserError: the cache cannot be written, or a sample cannot be read.
    """
    files = feature_files(subject, shards, cache, world, num_blocks)
    return {kind: np.load(path, mmap_mode="r", allow_pickle=False) for kind, path in files.items()}


def feature_files(
    subject: Subject, shards: ShardFolder, cache: Path, world: World, num_blocks: int = 1
) -> dict[str, Path]:
    """As ``features_of``, but where they lie: for what reads them in pieces (``RowFile``)."""
    folder = cache / features_key(subject, shards, num_blocks)
    with agreed():
        _make_folder(cache, world)
    with _one_job(folder, world):
        if any_rank([world.rank == 0 and not folder.exists()])[0]:
            _compute(subject, shards, folder, world, num_blocks)
    files = sorted(folder.glob("*.npy"), key=lambda path: _last_block_first(path.stem))
    return {path.stem: path for path in files}


def _last_block_first(kind: str) -> tuple[int, str]:
    """cls, mean, cls-2, mean-2, ...: of equals the first counts."""
    name, _, place = kind.partition("-")
    return int(place or 1), name


def _shape(subject: Subject) -> tuple[int, ...]:
    """Of what the encoder sees of a sample: (3, size, size), of clips (frames of all views, 3, size, size); of sound
    (1, mels, columns)."""
    shapes = subject.views.shapes()
    return shapes[0] if len(shapes[0]) == 3 else (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _block(subject: Subject) -> int:
    """How many samples are encoded at once."""
    shape = _shape(subject)
    return BLOCK if len(shape) == 3 else max(1, BLOCK // shape[0])


def layout_of(encoder: nn.Module) -> torch.memory_format:
    """Channels last for convolutional encoders: on a CPU up to 1.6 times as fast as channels first."""
    num_convolutions = sum(isinstance(module, nn.Conv2d) for module in encoder.modules())
    return torch.channels_last if num_convolutions > 1 else torch.contiguous_format


def _compute(subject: Subject, shards: ShardFolder, folder: Path, world: World, num_blocks: int) -> None:
    partial = folder.with_suffix(".tmp")
    encoder = subject.encoder.to(world.device)
    of_images = encoder.encoder if isinstance(encoder, OfClips) else encoder  # a head may have weights of other shapes
    layout = layout_of(of_images)
    of_images.to(memory_format=layout)
    num_samples, block = shards.manifest.num_samples, _block(subject)
    with torch.inference_mode():
        blank = torch.zeros(1, *_shape(subject), device=world.device)
        widths = {kind: found.shape[1] for kind, found in encode_all(encoder, blank, num_blocks).items()}
    with agreed():
        if world.rank == 0:
            _reserve(partial, widths, num_samples)
    with agreed():
        files = {kind: RowFile(partial / f"{kind}.npy", writes=True) for kind in (*widths, DONE)}
        known = files[DONE].read(0, num_samples)[:, 0] == 1
    barrier()  # before anybody writes
    with agreed():
        description, share = f"features: {subject.name}", int((~known).sum()) // world.size
        with ProgressBar(description, share, transient=True, shown=world.rank == 0) as bar:
            for ids, images in _blocks(subject, shards, world, known):
                if subject.noise_level:
                    digest = shards.manifest.index_sha256
                    images = with_noise(images, ids % block, ids, subject.noise_level, digest)
                images = images.contiguous(memory_format=layout) if images.ndim == 4 else images
                with torch.inference_mode():
                    found = encode_all(encoder, images, num_blocks)
                for kind, rows in found.items():
                    files[kind].write(ids, rows[torch.from_numpy(ids % block).to(rows.device)].float().cpu().numpy())
                files[DONE].write(ids, np.ones((len(ids), 1), np.uint8))
                bar.advance(len(ids))
        for file in files.values():
            file.sync()
    if world.rank == 0:
        meta = {
            "format": FORMAT,
            "subject": subject.name,
            **subject.origin,
            "shards": str(shards.path),
            "rows": num_samples,
        }
        write_bytes(partial / "meta.json", json.dumps(masked_values(meta), indent=1).encode())
        (partial / f"{DONE}.npy").unlink()
        partial.rename(folder)
    barrier()


def _blocks(
    subject: Subject, shards: ShardFolder, world: World, known: Bool[np.ndarray, " n"] | None = None
) -> Iterator[tuple[np.ndarray, Float[Tensor, "block *t c h w"]]]:
    """This rank's samples in whole blocks, each at its own place: (ids, images); none that are known already."""
    size = _block(subject)
    ids = complete_samples(subject.views, shards)
    if known is not None and known.any():
        ids = np.flatnonzero(~known) if ids is None else ids[~known[ids]]
        if not len(ids):
            return
    spec = LoaderSpec(
        shards=shards, views=subject.views, ids=ids, batch_size=size * world.size, device=str(world.device)
    )
    waiting: dict[int, Tensor] = {}  # a block that is not complete yet, by sample id
    with closing(make_pass(spec, world.rank, world.size)) as batches:
        for batch in batches:
            ids = batch.ids.numpy()
            views = only_sounds(batch.views, subject.views)
            images = views[0] if len(views) == 1 else torch.cat(views, dim=1)
            if not waiting and ids[-1] - ids[0] == size - 1 == len(ids) - 1 and ids[0] % size == 0:  # nothing to copy
                yield ids, images
                continue
            for sample, image in zip(ids.tolist(), images, strict=True):
                if waiting and sample // size != next(iter(waiting)) // size:
                    yield _placed(waiting, size)
                    waiting = {}
                waiting[sample] = image
    if waiting:
        yield _placed(waiting, size)


def _placed(samples: dict[int, Tensor], size: int) -> tuple[np.ndarray, Float[Tensor, "block *t c h w"]]:
    ids = np.array(list(samples))
    images = torch.stack(list(samples.values()))
    block = images.new_zeros(size, *images.shape[1:])
    block[torch.from_numpy(ids % size).to(images.device)] = images
    return ids, block


def _make_folder(cache: Path, world: World) -> None:
    try:
        if world.rank == 0:
            cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{cache}: cannot be written ({error.strerror}); choose another --out") from error


def _reserve(partial: Path, widths: dict[str, int], num_samples: int) -> None:
    """Makes the files at their full size, unless an interrupted computation has."""
    try:
        reserve(partial, {kind: (np.dtype(np.float32), width) for kind, width in widths.items()}, num_samples)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"{partial.parent}: features cannot be written ({error.strerror}); free space or --out"
        ) from error


@contextmanager
def _one_job(folder: Path, world: World) -> Iterator[None]:
    """Rank 0 holds a lock beside the folder, so that no two jobs write it; a kill frees it."""
    if world.rank != 0:
        yield
        return
    with folder.with_suffix(".lock").open("w") as file:
        file_locks.lock(file.fileno(), wait=True)
        yield
