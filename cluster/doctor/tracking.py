"""Does MLflow answer as the run will ask it? Looked at in a process of its own: importing MLflow takes seconds."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from eyespot.cluster.doctor.checks import CheckContext
from eyespot.cluster.doctor.findings import Finding
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.redaction import masked
from eyespot.pretrain.tracking.mirror import brief
from eyespot.pretrain.tracking.mirrors import check_mirrors
from eyespot.pretrain.tracking.mlflow_mirror import RUN_KEY_TAG, tracking_uri

REQUEST_SECONDS = 6


def mirrors(context: CheckContext) -> Iterator[Finding]:
    """Whether the packages are there by which the run is brought elsewhere than to MLflow, if it asks for that."""
    wanted = {name: context.values.get(name) for name in ("tensorboard", "wandb")}
    try:
        check_mirrors(tensorboard=bool(wanted["tensorboard"]), wandb=wanted["wandb"] or "")
    except UserError as error:
        found, _, fix = str(error).partition("; ")
        yield context.fail("mirrors", found, fix)
    else:
        yield context.ok("mirrors", ", ".join(name for name, value in wanted.items() if value) or "none")


def start_asking(context: CheckContext) -> subprocess.Popen[str] | str:
    """Begins to ask; a text is why there is nothing to ask."""
    assert context.run_dir is not None
    if not context.values.get("track", True):
        return "not used: the run has --no-track"
    if (uri := tracking_uri(context.run_dir)) is None:
        return "not used: MLFLOW_TRACKING_URI is none"
    if uri.startswith("sqlite:///") and not (path := Path(uri.removeprefix("sqlite:///"))).exists():
        return f"a new file: {path}"
    # Retries would hide a dead server behind minutes of silence.
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_SECONDS), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    words = ["doctor", "--probe-tracking", uri, context.values["experiment"]]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "eyespot.cluster.cli", *words],
        env={**os.environ, **limits, "MLFLOW_LOGGING_LEVEL": "ERROR", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def probe(uri: str, experiment: str) -> None:
    """Asks for the experiment and for one run of it, and prints what came of it as JSON."""
    try:
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        known = client.get_experiment_by_name(experiment)
        if known is not None:  # how a run finds itself after a requeue
            client.search_runs([known.experiment_id], f"tags.`{RUN_KEY_TAG}` = 'none'", max_results=1)
        state = "holds" if known is not None else "answers; has not yet"
        print(json.dumps({"ok": True, "found": f"{masked(uri)} {state} experiment {experiment}"}))
    except Exception as error:  # MLflow's own, requests' and the database's
        print(json.dumps({"ok": False, "found": f"{masked(uri)}: {brief(error)}"}))


def tracking_findings(context: CheckContext, process: subprocess.Popen[str] | str) -> Iterator[Finding]:
    """What came of ``start_asking``."""
    if isinstance(process, str):
        yield context.ok("MLflow", process)
        return
    complaint, seconds = "", context.seconds_left()
    try:
        said, complaint = process.communicate(timeout=seconds)
        answer = json.loads(said.splitlines()[-1])
    except subprocess.TimeoutExpired:
        answer = {"ok": False, "found": f"no answer after {seconds:.0f} s"}
    except (ValueError, IndexError):
        answer = {"ok": False, "found": f"asking ended with code {process.returncode}: {complaint[-200:].strip()}"}
    finally:
        process.kill()
        process.wait()
    if answer["ok"]:
        yield context.ok("MLflow", answer["found"])
    elif context.under_way:
        yield context.warn(
            "MLflow", answer["found"], f"the run goes on without it; afterwards: eyespot sync {context.run_dir}"
        )
    else:
        yield context.fail(
            "MLflow",
            answer["found"],
            "start the server or mend MLFLOW_TRACKING_URI; or train without it (--no-track, later eyespot sync RUN)",
        )
