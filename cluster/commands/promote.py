"""``eyespot promote NAME VERSION|@ALIAS --alias production``."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from eyespot.cluster.arguments import parse
from eyespot.data_pipeline.errors import UserError

if TYPE_CHECKING:
    from eyespot.eval.release.registry import Registered


@dataclass(kw_only=True, slots=True)
class Promotion:
    """Lets an alias of MLflow's registry mean a version, once a downloaded copy has been verified by a fresh process.

    The version's files are fetched as a downstream team fetches them (eyespot pull), by a process that knows nothing
    else. What does not verify leaves the alias where it is.

    For example:

    eyespot promote digits 3 --alias production

    eyespot promote digits @candidate --alias production
    """

    name: Annotated[str, Positional, arg(metavar="NAME")]
    """Of the registered model."""
    version: Annotated[str, Positional, arg(metavar="VERSION")]
    """Its number, or @ALIAS for the one that an alias means now."""
    alias: str
    """The alias to move."""
    uri: str | None = None
    """MLflow's tracking URI; without it MLFLOW_TRACKING_URI."""


def main(argv: list[str]) -> int:
    """Moves the alias, says so, and returns the exit code."""
    wanted = parse(Promotion, argv, "eyespot promote")
    from eyespot.eval.release.registry import find

    version = wanted.version if wanted.version.startswith("@") else f"/{wanted.version}"
    print(promote(find(f"models:/{wanted.name}{version}", wanted.uri), wanted.alias, wanted.uri))
    return 0


def promote(found: "Registered", alias: str, uri: str | None) -> str:
    """Verifies a downloaded copy in a fresh process and moves the alias.

    Args:
        found: the version.
        alias: that it gets.
        uri: MLflow's tracking URI; None = MLFLOW_TRACKING_URI.

    Returns:
        What was done, as a line to print.

    Raises:
        UserError: the copy cannot be had or does not verify, or MLflow refuses the alias.
    """
    from eyespot.eval.release.registry import set_alias

    with tempfile.TemporaryDirectory() as room:
        words = [sys.executable, "-m", "eyespot.cluster.cli", "pull", found.address, str(Path(room) / "copy")]
        # By the environment: a command line, which all processes of a machine can read, would show a password.
        place = {"MLFLOW_TRACKING_URI": uri} if uri else {}
        done = subprocess.run(
            [*words, "--sha256", found.digest], capture_output=True, text=True, check=False, env=os.environ | place
        )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(f"alias {alias}: not moved: {said[0].removeprefix('eyespot: ')}")
    before = set_alias(found, alias, uri)
    moved = f" (was version {before})" if before not in (None, found.version) else ""
    return f"models:/{found.name}@{alias} is version {found.version}{moved}"
