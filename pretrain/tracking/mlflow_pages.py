"""What MLflow's own pages make of a run: which view an experiment opens in, data, description, pictures by step."""

import contextlib
import getpass
import json
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.pretrain.redaction import masked
from eyespot.pretrain.tracking.mirror import step_of
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Of an experiment: its pages are those of trained models, with charts, not those of chats and agents."""
NOTE_TAG = "mlflow.note.content"
"""A run's description, in Markdown. It is given once: people write there."""
_KEY = "pictures"
_DIGEST_LENGTH = 36


def open_as_training(client: "MlflowClient", experiment: Any) -> None:
    """Says of what kind an experiment is, unless somebody has; where this user may not, it stays as it is."""
    from mlflow.exceptions import MlflowException

    for name, value in TRAINING.items():
        if name not in experiment.tags:
            with contextlib.suppress(MlflowException):
                client.set_experiment_tag(experiment.experiment_id, name, value)


def who_runs() -> dict[str, str]:
    """Whom the run's page names. MLflow takes it at the run's beginning and never again."""
    try:
        return {"mlflow.user": getpass.getuser()}
    except (KeyError, OSError, ImportError):  # a container whose user has no name
        return {}


def note(*, command: str, recipe: str, method: str, papers: list[str], run_dir: Path) -> str:
    """A run's description.

    Args:
        command: that began it, without secrets; empty where a program or a notebook did.
        recipe: its name.
        method: one line about it; may be empty.
        papers: arXiv numbers of its papers.
        run_dir: its folder.
    """
    links = ", ".join(f"[arXiv:{number}](https://arxiv.org/abs/{number})" for number in papers)
    about = f"{method}{f' ({links})' if links else ''}"
    return f"""**{recipe}**{f": {about}" if about else ""}
{f"{chr(10)}```{chr(10)}{command}{chr(10)}```{chr(10)}" if command else ""}
| next | command |
| --- | --- |
| go on | `eyespot pretrain --from {run_dir}/run.json --resume auto` |
| judge the encoder | `eyespot eval {run_dir}` |
| one page about it | `eyespot report {run_dir}` |
| bring the rest here | `eyespot sync {run_dir}` |
"""


def mark_as_training(client: "MlflowClient", run: Any) -> None:
    """Says that a run makes a model, once.

    To the pages of MLflow 3 a run without one is an evaluation of an application: it stands among those, and the list
    of training runs, with its charts, is not there at all. The model is the encoder, as an entry without files.

    Args:
        client: of the store that has the run.
        run: as the store gave it.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    if run.outputs is not None and run.outputs.model_outputs:
        return
    with contextlib.suppress(MlflowException):  # a server older than 3.0 knows no such models, and has no such pages
        model = client.create_logged_model(
            run.info.experiment_id, name="encoder", source_run_id=run.info.run_id, model_type="encoder"
        )
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])


def name_data(client: "MlflowClient", run: Any, record: MlflowRecord) -> None:
    """Says what the run learns from: the shard folder, by its name, place and the beginning of its manifest's sha256.

    Once: a run that has a data set keeps it.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    name, digest = record.tags.get("data"), record.tags.get("manifest_sha256")
    if not name or not digest or (run.inputs is not None and run.inputs.dataset_inputs):
        return
    images = record.tags.get("num_samples")
    data = Dataset(
        name=name,
        digest=digest[:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": masked(record.params.get("data.shards", ""))}),
        profile=json.dumps({"num_samples": int(images)} if images else {}),
    )
    known = DatasetInput(data, [InputTag("mlflow.data.context", "training")])
    with contextlib.suppress(MlflowException):  # an old server knows no data sets
        client.log_inputs(run.info.run_id, datasets=[known])


def lacking(client: "MlflowClient", run_id: str, pictures: list[Path]) -> list[Path]:
    """Those of these pictures that a run does not have, or has of another size."""
    found = {artifact.path: artifact.file_size for artifact in client.list_artifacts(run_id, "pictures")}
    if any(step_of(path) is not None for path in pictures):
        found |= {artifact.path: artifact.file_size for artifact in client.list_artifacts(run_id, "images")}
    return [
        path
        for path in pictures
        if path.stat().st_size not in (found.get(f"pictures/{path.name}"), found.get(f"images/{_grid_name(path)}.png"))
    ]


def picture(client: "MlflowClient", run_id: str, path: Path) -> None:
    """Brings a picture. One of a step goes to the grid of images, where a slider walks through the steps."""
    from PIL import Image, UnidentifiedImageError

    from eyespot.data_pipeline.shards.image_check import FORMATS

    with tempfile.TemporaryDirectory() as room:
        name = _grid_name(path)
        try:
            with Image.open(path, formats=FORMATS) as image:
                image.thumbnail((256, 256))
                image.convert("RGB").save(Path(room) / f"{name}+compressed.webp")
        except (UnidentifiedImageError, OSError):  # no picture that Pillow reads
            name = ""
        if not name or step_of(path) is None:
            client.log_artifact(run_id, str(path), "pictures")
            return
        whole = Path(room) / f"{name}.png"
        whole.write_bytes(path.read_bytes())
        client.log_artifact(run_id, str(whole.with_name(f"{name}+compressed.webp")), "images")
        client.log_artifact(run_id, str(whole), "images")  # last: it says that both are there
    client.set_tag(run_id, "mlflow.loggedImages", "True")


def _grid_name(path: Path) -> str:
    """As MLflow's ``log_image`` names it, but the same each time: a picture that is sent again replaces itself."""
    step = step_of(path)
    return f"{_KEY}+step+{step}+timestamp+{step}+{uuid.uuid5(uuid.NAMESPACE_URL, path.name)}"
