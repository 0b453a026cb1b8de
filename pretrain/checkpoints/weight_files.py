"""Somebody's file of weights: which of its tensors are an encoder's, all of them, or one line that says why not.

A file is read as safetensors, or as a checkpoint of torch's without running anything that is in it. People's
checkpoints hold more than an encoder, under names of their own (``module.encoder_q.conv1.weight``): what comes before
the encoder's own names is found by itself, the names are brought to timm's (``foreign_names``), and what is left over
is counted.
"""

import argparse
import hashlib
import io
import pickle
import stat
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import PATIENCE_SECONDS, Patience, is_outage
from eyespot.data_pipeline.terminal import one_line
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.folders import newest
from eyespot.pretrain.checkpoints.foreign_names import Translated, names_of, translated
from eyespot.pretrain.checkpoints.library_names import authors_names

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_SPARE_BYTES = 8 << 30
"""That a file of weights may have beside 64 times its encoder's: optimiser states, teachers, heads, queues."""
_MAX_DEPTH = 8
"""Of dictionaries in a checkpoint."""
_LONGEST = 16
"""Parts that the name of an encoder's tensor has at most."""
_MOST_PLACES = 16
"""In a file that are tried for an encoder."""
META = "meta.json"
"""What a run's checkpoint folder has."""
EMA = "ema"
"""What the moving average of an encoder's weights is called where one of a run's encoders is meant."""
RELEASED = "model.safetensors"
"""What a release has."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Weights:
    """An encoder's tensors out of a file."""

    tensors: dict[str, Tensor]
    """By the encoder's own names."""
    sha256: str
    """Of the file."""
    prefix: str
    """What stood before their names."""
    others: list[str]
    """Names of the file's other tensors: heads, classifiers, further copies."""
    changes: list[str] = field(default_factory=list)
    """In words, what was fitted to the encoder's shapes."""

    def said(self) -> str:
        """In words: how many were loaded, and what was left."""
        words = f"{len(self.tensors)} of {len(self.tensors)} tensors loaded"
        if self.prefix:
            words += f", named {self.prefix}* there"
        words += "".join(f"; {change}" for change in self.changes)
        if self.others:
            shown = ", ".join(self.others[:2]) + (", ..." if len(self.others) > 2 else "")
            words += f"; {len(self.others)} others of the file are not the encoder's: {shown}"
        return one_line(words)  # names are a stranger's


def holder_of(path: Path) -> tuple[Path, str]:
    """Where the weights lie that a person means by this path: a run's newest checkpoint, a release's file, itself.

    Returns:
        The place, and what stands before the encoder's names there; "" = what is found. RUN@ema is the average of a
        run's weights, RUN@NAME its further student of that name.
    """
    folder, _, part = str(path).rpartition("@")
    if part and not path.exists() and (newest(Path(folder)) or (Path(folder) / META).is_file()):
        return _holder(Path(folder)), part_prefix(part)
    return _holder(path), ""


def part_prefix(part: str) -> str:
    """What stands in a run's checkpoint before the names of a part of it."""
    return "averaged." if part == EMA else f"students.{part}."


def _holder(path: Path) -> Path:
    if (checkpoint_folder := newest(path)) is not None:
        return checkpoint_folder
    return path / RELEASED if (path / RELEASED).is_file() else path


def read_weights(
    path: Path,
    wanted: Mapping[str, Tensor],
    *,
    sha256: str = "",
    prefix: str = "",
    encoder: nn.Module | None = None,
    setting: str = "start.weights",
) -> Weights:
    """All tensors of an encoder out of a file.

    Args:
        path: safetensors, a checkpoint of torch's, or a checkpoint folder of a run.
        wanted: the encoder's state dict.
        sha256: that the file must have (of a checkpoint folder, its ``meta.json``); empty = any.
        prefix: what stands before the encoder's names; empty = what is found, of a run's checkpoint its encoder's.
        encoder: whose they will be; None = only its own names and shapes are read.
        setting: that names the path.

    Raises:
        UserError: it cannot be read, is another file than was meant, holds other tensors, or holds what is no weight.
        Outage: the file system does not give it.
    """
    source = f"{setting} {path}"
    is_run = (path / META).is_file()
    limit = 64 * sum(tensor.nbytes for tensor in wanted.values()) + _SPARE_BYTES
    content = _content(path / META if is_run else path, setting, limit)
    digest = hashlib.sha256(content).hexdigest()
    if sha256 and digest != sha256:
        raise UserError(f"{source}: has sha256 {digest[:12]}..., not start.sha256 {sha256[:12]}...")
    if is_run:
        held = checkpoint.read_module(path) if prefix else checkpoint.read_encoder(path)
    else:
        held = _tensors(content, source)
        _check_unfolded(held, source, limit)
    found = fitted(held, wanted, source, prefix=prefix, encoder=encoder)
    return replace(found, sha256=digest)


def fitted(
    held: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str, *, prefix: str, encoder: nn.Module | None
) -> Weights:
    """All tensors of an encoder out of those that somebody holds.

    Args:
        held: by whatever names.
        wanted: the encoder's state dict.
        source: what they are of, for messages.
        prefix: what stands before the encoder's names; empty = what is found.
        encoder: whose they will be; None = only its own names and shapes are read.

    Raises:
        UserError: they are not the encoder's, or not all.
    """
    held = authors_names(held)
    places = [_given(prefix, held, source)] if prefix else _places(held, wanted, encoder)
    tried: list[tuple[str, Translated]] = []
    for place in places:
        tried.append((place, _under(place, held, wanted, encoder)))
        if not place and _fits(tried[0][1], wanted):
            break  # the encoder's own names, so that further copies need not be looked for
    fitting = [(place, one) for place, one in tried if _fits(one, wanted)]
    if not fitting:  # the nearest, whose error then says what it lacks
        place, found = max(tried, key=lambda pair: sum(name in wanted for name in pair[1].tensors))
        check_tensors(wanted, found.tensors, source, _advice(wanted, found.tensors, held))
        raise UserError(f"{source}: {place}{found.refusal}")
    elif not prefix and any(not _same(fitting[0][1], other) for _, other in fitting[1:]):
        which = f"say which with --start.prefix, for instance {fitting[0][0]}"
        raise UserError(
            f"{source}: holds {len(fitting)} encoders, named {', '.join(f'{place}*' for place, _ in fitting)};"
            f" {which if source.startswith('start.') else 'save the one that is meant in a file of its own'}"
        )
    else:
        place, found = fitting[0]
    check_tensors(wanted, found.tensors, source, "choose the encoder.* that it was saved from")
    others = [*(name for name in held if not name.startswith(place)), *(place + name for name in found.beside)]
    return Weights(tensors=found.tensors, sha256="", prefix=place, others=others, changes=found.changes)


def _under(
    place: str, held: Mapping[str, Tensor], wanted: Mapping[str, Tensor], encoder: nn.Module | None
) -> Translated:
    found = {name.removeprefix(place): tensor for name, tensor in held.items() if name.startswith(place)}
    if encoder is not None:
        return translated(found, encoder)
    modules = {name.partition(".")[0] for name in wanted}
    beside = [name for name in found if name not in wanted and name.partition(".")[0] not in modules]
    return Translated(tensors={name: found[name] for name in found if name not in beside}, beside=beside)


def _fits(found: Translated, wanted: Mapping[str, Tensor]) -> bool:
    return not found.refusal and {name: tensor.shape for name, tensor in found.tensors.items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }


def _advice(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> str:
    """What to do about a file of other tensors; where most names are foreign, they may be the right ones."""
    chosen = "choose the encoder.* that it was saved from"
    if not held or 2 * len(wanted.keys() & found.keys()) >= len(wanted):
        return chosen
    return f"most names there are not the encoder's, the first is {next(iter(held))}: {chosen}, or rename all to timm's"


def _same(one: Translated, other: Translated) -> bool:
    return all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def check_tensors(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str, advice: str) -> None:
    """Raises a UserError unless ``found`` are the wanted tensors, in shape and kind, and all their numbers finite."""
    for name in [*wanted, *found]:
        shapes = [tuple(held[name].shape) if name in held else None for held in (wanted, found)]
        if shapes[0] != shapes[1]:
            there, here = ("missing" if shape is None else shape for shape in (shapes[1], shapes[0]))
            raise UserError(f"{source}: {name} is {there} there and {here} in the encoder; {advice}")
        mine, given = wanted[name].dtype, found[name].dtype
        fits = given in _FLOATS if mine.is_floating_point else given == mine or not _odd(given)
        if not fits:
            there, here = _named(given), _named(mine)
            raise UserError(f"{source}: {name} is {there} there and {here} in the encoder; save it as {here}")
        odd = int((~found[name].to(mine).isfinite()).sum()) if mine.is_floating_point else 0
        if odd:
            raise UserError(
                f"{source}: {odd} of {found[name].numel()} numbers of {name} are not finite; take an older file"
            )


def _odd(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex or dtype == torch.bool


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_file(path: Path, setting: str = "start.weights") -> None:
    """Whether there is such a file of first weights, which ``setting`` names; what is in it is another question.

    Args:
        path: the file, or a run's checkpoint.
        setting: what names it, for the message.

    Raises:
        UserError: there is none, or it is no file.
        Outage: the file system does not say.
    """
    source = f"{setting} {path}"
    path = path / META if (path / META).is_file() else path
    try:
        mode = Patience(PATIENCE_SECONDS).read(path, path.stat, is_outage).st_mode
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        raise UserError(
            f"{source}: is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; name a file of weights"
        )


def _content(path: Path, setting: str, largest: int) -> bytes:
    """The whole file; what is none (a folder, a pipe) would be waited for, holes read as zeros without end."""
    source = f"{setting} {path}"
    check_file(path, setting)
    patience = Patience(PATIENCE_SECONDS)
    try:
        if (size := patience.read(path, path.stat, is_outage).st_size) > largest:
            raise UserError(
                f"{source}: has {size:,} bytes, far more than its encoder; save the encoder's weights alone"
            )
        return patience.read(path, path.read_bytes, is_outage)
    except MemoryError as error:
        raise UserError(f"{source}: does not fit into memory; save the encoder's weights alone") from error
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from error


def _tensors(content: bytes, source: str) -> dict[str, Tensor]:
    if content[8:9] != b"{" and content.startswith((_ZIP, _PICKLE)):
        return _of_checkpoint(content, source)
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: of a type that torch lacks
        raise UserError(f"{source}: cannot be read as safetensors ({error})") from error


def _check_unfolded(held: Mapping[str, Tensor], source: str, largest: int) -> None:
    """A view that repeats one number costs nothing in the file, and all of its size as soon as it is computed with."""
    for name, tensor in held.items():
        if tensor.nbytes > largest:
            raise UserError(
                f"{source}: {name} has {tensor.nbytes:,} bytes, far more than its encoder; save the encoder's weights"
                " alone"
            )


def _of_checkpoint(content: bytes, source: str) -> dict[str, Tensor]:
    """All tensors of a checkpoint, however deep its dictionaries: {"teacher": {"x": t}} gives "teacher.x"."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():  # many keep options so
            warnings.simplefilter("ignore")  # of torch's own: what is no weight is said below
            held = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{source}: holds more than tensors and numbers, and reading that could run code; save the encoder's"
            " state dict alone, with safetensors.torch.save_file"
        ) from error
    except Exception as error:  # torch raises whatever a damaged archive leads to
        raise UserError(f"{source}: cannot be read as a checkpoint ({_brief(error)})") from error
    found: dict[str, Tensor] = {}
    _collect(held, "", found, _MAX_DEPTH)
    if not found:
        raise UserError(f"{source}: holds no tensors by name; save the encoder's state dict in it")
    for name, tensor in found.items():
        if kind := _kind_without_numbers(tensor):
            raise UserError(f"{source}: {name} is {kind}; save it as a dense tensor of {_named(torch.float32)}")
    return found


def _kind_without_numbers(tensor: Tensor) -> str:
    """What a tensor is called whose numbers do not lie in the file one by one; empty where they do."""
    if tensor.is_meta:
        return "on the meta device, where tensors have no numbers"
    if tensor.is_quantized:
        return "quantized"
    if tensor.is_nested:
        return "nested"
    return "" if tensor.layout == torch.strided else "sparse"


def _collect(held: Any, name: str, found: dict[str, Tensor], depth: int) -> None:
    if isinstance(held, Tensor) and name:
        found[name] = held.detach()
    elif isinstance(held, Mapping) and depth:
        for key, value in held.items():
            if isinstance(key, str):
                _collect(value, f"{name}.{key}" if name else key, found, depth - 1)


def _given(prefix: str, held: Mapping[str, Tensor], source: str) -> str:
    """As the user said, with its point."""
    prefix = f"{prefix.removesuffix('.')}."
    if not any(name.startswith(prefix) for name in held):
        raise UserError(
            f"{source}: no tensor begins with start.prefix {prefix}; the first is {next(iter(held), 'none')}"
        )
    return prefix


def _places(held: Mapping[str, Tensor], wanted: Mapping[str, Tensor], encoder: nn.Module | None) -> list[str]:
    """What may stand before the encoder's names in the file, nothing first, then where most of them follow."""
    names = set(wanted if encoder is None else names_of(encoder))
    counts: Counter[str] = Counter()
    for name in held:
        parts = name.split(".")
        for cut in range(max(1, len(parts) - _LONGEST), len(parts)):
            if ".".join(parts[cut:]) in names:
                counts[".".join(parts[:cut]) + "."] += 1
    return ["", *(place for place, _ in counts.most_common(_MOST_PLACES))]


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
