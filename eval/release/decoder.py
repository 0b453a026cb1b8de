"""The decoder of a method that has one: what is needed besides the encoder to fill in masked patches, or to go on
training."""

import dataclasses
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.layout import DECODER, PROVENANCE, WEIGHTS
from eyespot.eval.release.provenance import Origin
from eyespot.eval.release.verify import verified
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.loop.initial_weights import check_size, fresh_objective
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.recipe_lookup import make_recorded
from eyespot.pretrain.run_json import overlay

_TEXT = """\
All that the method has besides the encoder, for reconstructions and further training: {settings}.
With eyespot, `FOLDER` being this one:

```python
from pathlib import Path
from eyespot.eval.release.decoder import load_objective

objective = load_objective(Path("FOLDER"))
```"""


def decoder_of(origin: Origin) -> tuple[dict[str, Tensor], str]:
    """The tensors of decoder.safetensors, fixed ones included, and what the card says of them.

    Raises:
        UserError: the method has no decoder, or the checkpoint's does not fit.
    """
    run = origin.run
    trained = checkpoint.read_module(origin.folder)
    check_size(run, origin.folder)
    objective = fresh_objective(run)
    if not any(name.startswith("decoder") for name in objective.state_dict()):
        raise UserError(f"--decoder: {type(objective).__name__} has no decoder; leave it out")
    _load(objective, trained, f"checkpoint {origin.folder}")
    tensors = {**objective.state_dict(), **dict(objective.named_buffers())}
    settings = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(run.objective).items())
    beside = {name: each for name, each in tensors.items() if not name.startswith(("encoder.", "averaged."))}
    return beside, _TEXT.format(settings=settings)


def load_objective(folder: Path) -> Objective:
    """The whole method of a release with decoder: encoder and decoder as they were trained.

    Args:
        folder: of the release; it is verified first.

    Raises:
        UserError: it does not match, was released without decoder, or names a recipe that is not ours: a stranger's
            word for what to import is not taken.
    """
    provenance = verified(folder)
    if not (folder / DECODER).is_file():
        raise UserError(f"release {folder}: has no {DECODER}; release the run with --decoder")
    if ":" in provenance["recipe"]:
        raise UserError(
            f"release {folder}: recipe {provenance['recipe']} is not eyespot's own; build the objective yourself"
        )
    run = overlay(make_recorded(provenance["recipe"], str(folder)), provenance["run"]["run"], str(folder / PROVENANCE))
    run.optim.ema = 0.0  # of the average a release holds what it is, at most
    objective = fresh_objective(run)
    weights = {f"encoder.{name}": tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    decoder = {name: tensor for name, tensor in load_file(folder / DECODER).items() if name in objective.state_dict()}
    _load(objective, weights | decoder, f"release {folder}")
    return objective.eval()


def _load(objective: Objective, tensors: dict[str, Tensor], source: str) -> None:
    try:
        objective.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"{source}: does not fit {type(objective).__name__}: {str(error).splitlines()[-1].strip()}"
        ) from error
