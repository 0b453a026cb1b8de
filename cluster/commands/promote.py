"""``eyespot promote NAME VERSION|@ALIAS --alias production``."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from eyespot.cluster.arguments import parse
from eyespot.data_pipeline.exit_codes import ExitCode


@dataclass(kw_only=True, slots=True)
class Promotion:
    """Lets an alias of MLflow's registry mean a version, once a downloaded copy has been verified by a fresh process.

    The version's files are downloaded and verified as a downstream team's are (eyespot pull), by a process that knows
    nothing else. What does not verify leaves the alias where it is.

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
    from eyespot.eval.release.registry import find, promote

    version = wanted.version if wanted.version.startswith("@") else f"/{wanted.version}"
    found = find(f"models:/{wanted.name}{version}", wanted.uri)
    before = promote(found, wanted.alias, wanted.uri)
    moved = f" (was version {before})" if before not in (None, found.version) else ""
    print(f"models:/{found.name}@{wanted.alias} is version {found.version}{moved}")
    return ExitCode.DONE
