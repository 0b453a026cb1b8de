"""What MLflow's own pages make of a run."""

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
