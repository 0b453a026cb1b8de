"""Results as child runs of their run in MLflow. What lies in RUN/eval is the truth; every call may be repeated.

A child is found by its parent and the tag ``eyespot.result_key`` and is whole when its status is FINISHED. One that a
kill left half is sent again: its time stamps come from the result, so nothing is stored twice.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.data_pipeline.errors import Outage, UserError, is_network_outage
from eyespot.eval.results.result import Result
from eyespot.pretrain.redaction import masked
from eyespot.pretrain.tracking import metrics_file
from eyespot.pretrain.tracking.mirror import brief, locked
from eyespot.pretrain.tracking.mlflow_mirror import RUN_KEY_TAG, oldest_run, open_store, tracking_uri
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord, flatten, legal_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT_TAG = "mlflow.parentRunId"
RESULT_KEY_TAG = "eyespot.result_key"


def track_results(run_dir: Path, results: Sequence[Result], uri: str | None = None) -> int:
    """Makes a child of the run in MLflow of each result that has none yet.

    Args:
        run_dir: the run folder. The run itself must be in MLflow already.
        results: of this run.
        uri: tracking URI; None means MLFLOW_TRACKING_URI, else ``mlflow.db`` beside the run folder; "none" for nothing.

    Returns:
        How many were new.

    Raises:
        UserError: MLflow does not have the run yet, or refuses.
        Outage: it does not answer.
    """
    if (place := tracking_uri(run_dir, uri)) is None or not results:
        return 0
    later = f"send the results later with: eyespot sync {run_dir}"
    record = MlflowRecord.read(run_dir)
    try:
        client = open_store(place)
        experiment = client.get_experiment_by_name(record.experiment)
        parent = experiment and oldest_run(client, experiment.experiment_id, {RUN_KEY_TAG: record.run_key})
        if parent is None:
            raise UserError(f"MLflow at {masked(place)}: does not have the run {record.name} yet; {later}")
        with locked(run_dir / metrics_file.NAME):  # another evaluation of this run may end at the same time
            return sum(_track(client, parent, result) for result in results)
    except (UserError, Outage):
        raise
    except Exception as error:  # MLflow raises its own, requests' and the database's errors alike
        kind = Outage if is_network_outage(error) else UserError
        raise kind(f"MLflow at {masked(place)}: {brief(error)}; {later}") from error


def _track(client: "MlflowClient", parent: Any, result: Result) -> bool:
    """Sends one result, unless it is there; True where it was not."""
    from mlflow.entities import Metric, Param

    experiment_id = parent.info.experiment_id
    tags = {PARENT_TAG: parent.info.run_id, RESULT_KEY_TAG: result.key}
    child = oldest_run(client, experiment_id, tags)
    if child is not None and child.info.status == "FINISHED":
        return False
    end_ms = round(datetime.fromisoformat(result.created).timestamp() * 1000)
    if child is None:
        start_ms = end_ms - round(result.seconds * 1000)
        name = masked(f"{result.protocol} on {result.data}: {result.name}")
        child = client.create_run(experiment_id, start_time=start_ms, run_name=name, tags=tags)
    step = int(result.origin.get("step", 0))
    metrics = [Metric(legal_name(name), value, end_ms, step) for name, value in _metrics(result).items()]
    params = [Param(name, value) for name, value in flatten(_params(result)).items()]
    client.log_batch(child.info.run_id, metrics=metrics, params=params)
    client.set_terminated(child.info.run_id, "FINISHED", end_ms)
    return True


def _metrics(result: Result) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, score in result.all_scores().items():
        found[name] = score.value
        if score.interval is not None:
            found[f"{name}_low"], found[f"{name}_high"] = score.interval
    return found if result.validation is None else {**found, "validation": result.validation}


def _params(result: Result) -> dict[str, object]:
    return {
        "protocol": result.protocol,
        "metric": result.metric,
        "data": result.data,
        "split": result.split,
        "num_train": result.num_train,
        "num_test": result.num_test,
        "subject": result.role,
        **{name: value for name, value in result.origin.items() if name != "run"},
        "settings": result.settings,
        "seed": result.seed,
    }
