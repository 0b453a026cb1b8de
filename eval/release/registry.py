"""Releases in MLflow's model registry: a version's files, its digest as a tag, aliases.

Artifacts of a registered version can be changed by whoever may write to the server. The tag says what they were; what
does not match it is refused.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.data_pipeline.errors import Outage, UserError, is_network_outage
from eyespot.eval.release.layout import digest_of
from eyespot.eval.release.registered import page
from eyespot.eval.release.registered.pyfunc_model import RELEASE, save_model
from eyespot.eval.results.mlflow_children import PARENT_TAG
from eyespot.pretrain.redaction import masked
from eyespot.pretrain.tracking import metrics_file
from eyespot.pretrain.tracking.mirror import brief, locked
from eyespot.pretrain.tracking.mlflow_mirror import RUN_KEY_TAG, oldest_run, open_store, tracking_uri
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

DIGEST_TAG = "eyespot.release_sha256"
"""Of a model version, and of the run that holds its files: the release's digest."""
FORM_TAG = "eyespot.form"
"""Of a run whose files are a model of MLflow's (``registered/pyfunc_model.py``); older ones hold the bare release."""
_PLACE = "model"
_PICTURE = "picture.png"
_VERIFY = """
import sys
from pathlib import Path
from eyespot.eval.release.verify import verified
verified(Path(sys.argv[1]), sys.argv[2])
"""
_ERROR = f"{UserError.__module__}.{UserError.__qualname__}"

_ADDRESS = re.compile(r"models:/+([^/@]+)(?:@([^/@]+)|/(\d+))")


@dataclass(kw_only=True, slots=True)
class Registered:
    """A version of a registered release."""

    name: str
    version: str
    digest: str
    """The release's, as the registry's tag says it."""

    @property
    def address(self) -> str:
        """What always means this version."""
        return f"models:/{self.name}/{self.version}"


def check(name: str, run_dir: Path, uri: str | None = None) -> None:
    """Whether the run could be registered under that name: to be asked before its release is written.

    Raises:
        UserError, Outage: as ``register``.
    """
    if not re.fullmatch(r"[\w.-][\w. -]*", name):
        raise UserError(f"--register {name!r}: must consist of letters, digits, '.', '_', '-' and blanks")
    record, place = MlflowRecord.read(run_dir), _place(run_dir, uri)
    with _store(place, f"--register {name}") as client:
        _parent(client, record)


def is_registered(address: str) -> bool:
    """Whether an address is one of MLflow's registry."""
    return address.startswith("models:/")


def find(address: str, uri: str | None = None) -> Registered:
    """Which version an address means now.

    Args:
        address: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        uri: MLflow's tracking URI; None = MLFLOW_TRACKING_URI.

    Raises:
        UserError: no such version or alias, or none that eyespot released.
        Outage: MLflow does not answer.
    """
    matched = _ADDRESS.fullmatch(address)
    if matched is None:
        raise UserError(f"{masked(address)}: write it as models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = matched.groups()
    with _store(uri, address) as client:
        version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
        if DIGEST_TAG not in version.tags:
            raise UserError(
                f"{masked(address)}: version {version.version} has no tag {DIGEST_TAG}, so eyespot did not release it;"
                " register one with: eyespot release RUN --register NAME"
            )
        return Registered(name=name, version=str(version.version), digest=version.tags[DIGEST_TAG])


def download(address: str, into: Path, uri: str | None = None) -> str:
    """Brings a version's files into an empty folder.

    Args:
        address: as of ``find``.
        into: the folder; what is on its way lies beside it.
        uri: MLflow's tracking URI; None = MLFLOW_TRACKING_URI.

    Returns:
        The digest that the release must have.

    Raises:
        UserError, Outage: as ``find``; or the files cannot be had.
    """
    found = find(address, uri)
    with _store(uri, address) as client:
        from mlflow.artifacts import download_artifacts

        place = client.get_model_version_download_uri(found.name, found.version)
        room = into.with_name("download")
        room.mkdir()
        got = Path(download_artifacts(artifact_uri=place, dst_path=str(room), tracking_uri=client.tracking_uri))
        if (got / "MLmodel").is_file():
            got /= RELEASE
        if got.is_symlink() or got.parent.is_symlink() or not got.is_dir():
            raise UserError(f"{masked(address)}: holds no release; register one with: eyespot release RUN --register")
        got.rename(into)
    return found.digest


def register(folder: Path, run_dir: Path, name: str, uri: str | None = None) -> Registered:
    """Makes a release a version of a registered model; the same release is one version however often it is registered.

    Its files, as a model that MLflow itself loads, become artifacts of a child of the pretraining run, tagged with the
    digest. The model's and the version's pages get what the card says.

    Args:
        folder: the release.
        run_dir: the run that it is of; it must be in MLflow already.
        name: of the registered model, made where there is none.
        uri: tracking URI; None means MLFLOW_TRACKING_URI, else ``mlflow.db`` beside the run folder.

    Raises:
        UserError: MLflow does not have the run, or refuses the name.
        Outage: it does not answer.
    """
    record, digest = MlflowRecord.read(run_dir), digest_of(folder)
    with _store(_place(run_dir, uri), f"--register {name}") as client, locked(run_dir / metrics_file.NAME):
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=page.model_text(name, folder))
        versions = client.search_model_versions(f"name = '{name}'")
        version = next((one for one in versions if one.tags.get(DIGEST_TAG) == digest), None)
        if version is None:
            run_id = _with_files(client, record, folder, digest, page.newest_picture(run_dir))
            tags = {**page.version_tags(folder), DIGEST_TAG: digest}
            version = client.create_model_version(name, source=f"runs:/{run_id}/{_PLACE}", run_id=run_id, tags=tags)
        if not version.description:  # also where a registration broke off just here
            _describe(client, version, folder)
    return Registered(name=name, version=str(version.version), digest=digest)


def promote(found: Registered, alias: str, uri: str | None = None) -> str | None:
    """Lets an alias mean a version, once a fresh process has verified a downloaded copy.

    Args:
        found: the version.
        alias: that it gets.
        uri: MLflow's tracking URI; None = MLFLOW_TRACKING_URI.

    Returns:
        The version that the alias meant before; None where it is new.

    Raises:
        UserError: the copy does not verify, or MLflow refuses the alias.
        Outage: it does not answer.
    """
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) / "copy"
        folder.mkdir()
        download(found.address, folder, uri)
        words = [sys.executable, "-P", "-c", _VERIFY, str(folder), f"release {found.address}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode == 0 and digest_of(folder) != found.digest:
            raise UserError(f"alias {alias}: not moved: {found.address} is another release than its tag says")
    if done.returncode != 0:
        said = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise UserError(f"alias {alias}: not moved: {masked(said).removeprefix(f'{_ERROR}: ')}")
    return set_alias(found, alias, uri)


def set_alias(found: Registered, alias: str, uri: str | None = None) -> str | None:
    """Lets an alias mean a version from now on; returns the version that it meant before.

    Raises:
        UserError: MLflow refuses the alias.
        Outage: it does not answer.
    """
    with _store(uri, f"alias {alias}") as client:
        before = client.get_registered_model(found.name).aliases.get(alias)
        client.set_registered_model_alias(found.name, alias, found.version)
    return str(before) if before is not None else None


def _with_files(client: "MlflowClient", record: MlflowRecord, folder: Path, digest: str, picture: Path | None) -> str:
    """The id of the run that holds the release's files: made and filled where there is none that is whole."""
    parent = _parent(client, record)
    tags = {PARENT_TAG: parent.info.run_id, DIGEST_TAG: digest, FORM_TAG: "mlflow-model"}
    child = oldest_run(client, parent.info.experiment_id, tags)
    if child is None:
        child = client.create_run(parent.info.experiment_id, run_name=f"release of {record.name}", tags=tags)
    if child.info.status != "FINISHED":
        with tempfile.TemporaryDirectory() as room:
            save_model(folder, Path(room) / _PLACE)
            client.log_artifacts(child.info.run_id, str(Path(room) / _PLACE), _PLACE)
            if picture is not None:
                client.log_artifact(child.info.run_id, shutil.copy(picture, Path(room) / _PICTURE))
        client.set_terminated(child.info.run_id, "FINISHED")
    return child.info.run_id


def _describe(client: "MlflowClient", version: Any, folder: Path) -> None:
    """Fills a version's page, which holds its number and so comes after it."""
    held = {file.path for file in client.list_artifacts(version.run_id)}
    shown = page.artifact_address(version.run_id, _PICTURE) if _PICTURE in held else None
    text = page.version_text(version.name, str(version.version), folder, shown)
    client.update_model_version(version.name, version.version, description=text)


def _parent(client: "MlflowClient", record: MlflowRecord) -> Any:
    """The pretraining run in MLflow."""
    experiment = client.get_experiment_by_name(record.experiment)
    parent: Any = experiment and oldest_run(client, experiment.experiment_id, {RUN_KEY_TAG: record.run_key})
    if parent is None:
        raise UserError(f"--register: MLflow does not have the run {record.name} yet; bring it with eyespot sync first")
    return parent


def _place(run_dir: Path, uri: str | None) -> str:
    """Where the run is tracked; "none" for nowhere."""
    return tracking_uri(run_dir, uri) or "none"


@contextmanager
def _store(uri: str | None, what: str) -> Iterator["MlflowClient"]:
    """A client; whatever goes wrong with it becomes a UserError or an Outage that says with ``what``."""
    place = uri or os.environ.get("MLFLOW_TRACKING_URI") or "none"
    if place.lower() == "none":
        raise UserError(f"{masked(what)}: which MLflow server? Set MLFLOW_TRACKING_URI")
    if not sys.stderr.isatty():
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        yield open_store(place)
    except (UserError, Outage):
        raise
    except Exception as error:  # MLflow raises its own, requests' and the storage's errors alike
        kind = Outage if is_network_outage(error) else UserError
        raise kind(f"{masked(what)}: MLflow at {masked(place)}: {brief(error)}") from error
