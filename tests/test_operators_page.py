"""docs/operators.md: its flags are those of the commands, its doctor's checks those of doctor, its drills there."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eyespot.cluster.cli import COMMANDS
from eyespot.cluster.commands import cancel, doctor, launch, logs, shards, status
from eyespot.cluster.doctor.page import ORDER
from eyespot.cluster.launch.site_profiles import KEYS
from eyespot.cluster.launch.submission import Submission
from eyespot.pretrain.recipe_lookup import make_run

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operators.md").read_text()
OF_OTHERS = {
    "--cpu-bind",
    "--full",
    "--gpus-per-task",
    "--gpus",
    "--shm-size",
    "--allowed-hosts",
    "--signal",
    "--uri",
}  # docker, mlflow, scancel, srun, eyespot sync


def flags(config: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(config):
        name = prefix + field.name.replace("_", "-")
        yield f"--{name}"
        yield f"--no-{name}"
        value = getattr(config, field.name, None)
        if dataclasses.is_dataclass(value):
            yield from flags(value, f"{name}.")


def test_flags_are_as_they_are_typed():
    known = {*OF_OTHERS, *flags(Submission()), *flags(make_run("mae_tiny"))}
    for kind in (launch.Launch, status.Request, logs.Request, cancel.Request, doctor.Options, shards.Pack):
        known |= set(flags(kind))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z.-]*[a-z]", PAGE)) <= known


def test_commands_and_files_are_there():
    assert set(re.findall(r"\beyespot ([a-z]+) (?:runs|--|RUN|mae_|retrieval)", PAGE)) <= set(COMMANDS)
    for path in re.findall(r"`((?:tests|docs)/[\w/.]+)`", PAGE):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"\]\(([\w/.-]+)\)", PAGE):
        assert (ROOT / "docs" / path).is_file(), path


def test_profile_keys_are_there():
    table = PAGE.partition("```toml")[2].partition("```")[0]
    keys = re.findall(r"^(\w+) =", table, re.M)
    assert keys and set(keys) <= set(KEYS)


def test_every_check_of_the_doctor_is_told():
    rows = PAGE.partition("## Doctor")[2].partition("## MLflow")[0]
    told = {
        name for line in rows.splitlines() if line.startswith("| ") for name in line.split("|")[1].strip().split(", ")
    }
    assert set(ORDER) <= told
