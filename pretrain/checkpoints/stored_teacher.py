"""A run's teacher on the disk: RUN/teacher.safetensors, written once, and its sha256 in ``run.json``.

So a run goes on with the very teacher that it began with, wherever that came from and whatever became of it there.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import PATIENCE_SECONDS, Patience, is_outage, words
from eyespot.data_pipeline.plain_files import open_plain
from eyespot.pretrain.checkpoints.weight_files import check_tensors

FILE = "teacher.safetensors"


def write_teacher(run_dir: Path, tensors: Mapping[str, Tensor]) -> str:
    """Puts the teacher into the run's folder, where it is the same every time; returns its sha256.

    Raises:
        UserError: the file cannot be written.
    """
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    try:
        write_bytes(run_dir / FILE, content)
    except OSError as error:
        raise UserError(f"{run_dir / FILE}: cannot be written ({words(error)}); free some space") from error
    return hashlib.sha256(content).hexdigest()


def _plain_bytes(path: Path) -> bytes:
    """Of a plain file: what waits for a writer is refused."""
    with open_plain(path) as file:
        return file.read()


def read_teacher(run_dir: Path, wanted: Mapping[str, Tensor], sha256: str) -> dict[str, Tensor]:
    """The teacher that a run began with.

    Args:
        run_dir: the run's folder.
        wanted: the teacher's state dict.
        sha256: that the file had.

    Raises:
        UserError: the file is gone or damaged, or another one.
    """
    path = run_dir / FILE
    try:
        content = Patience(PATIENCE_SECONDS).read(path, lambda: _plain_bytes(path), is_outage)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({words(error)}); the run cannot go on without its teacher: put the file back"
            f" (sha256 {sha256[:12]}...)"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise UserError(
            f"{path}: has sha256 {digest[:12]}..., and the run began with {sha256[:12]}...; put that file back, for"
            " with another teacher it would be another run"
        )
    try:
        found = load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}); begin a new run") from error
    check_tensors(wanted, found, str(path), "begin a new run")
    return found
