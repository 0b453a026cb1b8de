"""Site profiles, sbatch flags, sweeps, and folders of odd runs, for ``launch``, ``status``, ``logs`` and ``cancel``."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hostile.case import TRAIN, Case, Room, Wants, Words

AFTER = ["--", *TRAIN]


def launched(flags: Sequence[str], fill: Callable[[Room], Any] | None = None, words: Sequence[str] = AFTER) -> Any:
    def make(room: Room) -> Sequence[Words]:
        room.take("shards")
        if fill is not None:
            fill(room)
        return (["launch", "--dry-run", *flags, *words],)

    return make


def with_profile(text: bytes, *flags: str) -> Any:
    return launched(flags, lambda room: (room / "cluster.toml").write_bytes(text))


def cases() -> list[Case]:
    """All of this file."""
    return [*_flags(), *_profiles(), *_sweeps(), *_watching()]


def _case(name: str, wants: Wants, make: Any, says: str = "", **options: Any) -> Case:
    return Case(kind="cluster", name=name, wants=wants, make=make, says=says, **({"evil": "evil"} | options))


FLAGS_TABLE: dict[str, tuple[Wants, list[str]]] = {
    "sound": ("taken", ["--nodes", "1", "--time", "1h"]),
    "nodes-0": ("refused", ["--nodes", "0"]),
    "nodes-10^30": ("refused", ["--nodes", "1" + "0" * 30]),
    "time-garbage": ("refused", ["--time", "soon"]),
    "time-10^30": ("either", ["--time", "1" + "0" * 30]),
    "time-of-newlines": ("either", ["--time", "1h\n#SBATCH --uid=0"]),
    "mem-garbage": ("refused", ["--mem", "lots"]),
    "mem-newline": ("either", ["--mem", "4G\n#SBATCH --uid=0"]),
    "partition-newline": ("either", ["--partition", "gpu\ntouch evil"]),
    "account-shell": ("either", ["--account", "$(touch evil)"]),
    "constraint-quote": ("either", ["--constraint", "a'b\"c"]),
    "exclude-newline": ("either", ["--exclude", "n1\ntouch evil"]),
    "name-newline": ("either", ["--name", "a\n#SBATCH --uid=0"]),
    "name-escapes": ("either", ["--name", "\x1b[31mred"]),
    "sbatch-array": ("refused", ["--sbatch", "array=0-99"]),
    "sbatch-nodes": ("refused", ["--sbatch", "nodes=9"]),
    "sbatch-output": ("refused", ["--sbatch", "output=/tmp/x"]),
    "sbatch-requeue": ("refused", ["--sbatch", "requeue"]),
    "sbatch-no-requeue": ("refused", ["--sbatch", "no-requeue"]),
    "sbatch-signal": ("refused", ["--sbatch", "signal=9@1"]),
    "sbatch-wrap": ("refused", ["--sbatch", "wrap=rm"]),
    "sbatch-job-name": ("refused", ["--sbatch", "job-name=x"]),
    "sbatch-open-mode": ("refused", ["--sbatch", "open-mode=truncate"]),
    "sbatch-ntasks": ("refused", ["--sbatch", "ntasks=9"]),
    "sbatch-short": ("refused", ["--sbatch", "N=9"]),
    "sbatch-underscore": ("either", ["--sbatch", "job_name=x"]),
    "sbatch-abbreviated": ("refused", ["--sbatch", "arr=0-9"]),
    "sbatch-newline": ("either", ["--sbatch", "comment=a\ntouch evil"]),
    "sbatch-dashes": ("refused", ["--sbatch", "--qos=x"]),
    "sbatch-comment": ("taken", ["--sbatch", "comment=a photo of 'us'"]),
    "setup-secret": ("refused", ["--setup", "export API_KEY=abcdef123456"]),
    "setup-pat": ("refused", ["--setup", "export GITHUB_PAT=ghp_abcdefghijklmnopqrstuvwxyz0123456789"]),
    "setup-header": ("refused", ["--setup", "curl -H 'Authorization: Bearer abcdef123456' x"]),
    "container-nowhere": ("either", ["--container", "not/there.sif"]),
    "container-mount-odd": ("either", ["--container", "docker://x", "--container-mounts", ":::"]),
    "then-rm": ("refused", ["--then", "rm"]),
    "then-unknown": ("refused", ["--then", "eval", "magic", "more", "words"]),
    "save-seconds-big": ("refused", ["--time", "1m", "--save-seconds", "100"]),
    "local-and-sweep": ("either", ["--local", "--sweep", "seed=0,1"]),
}


def _flags() -> list[Case]:
    found = [
        _case(f"launch-{name}", wants, launched(flags), _field(name), lost=_one_script)
        for name, (wants, flags) in FLAGS_TABLE.items()
    ]
    again = lambda fill: lambda room: (fill(room.take("run")), (["launch", "--dry-run", "--again", "run"],))[1]  # noqa: E731

    def submission(text: str) -> Any:
        def fill(run: Path) -> None:
            (run / "cluster" / "code").mkdir(parents=True)
            (run / "cluster" / "submission.json").write_text(text)

        return again(fill)

    texts = {
        "nothing": "",
        "list": "[]",
        "deep": "[" * 100_000,
        "nodes-text": '{"nodes": "two"}',
        "setup-number": '{"setup": 5}',
        "unknown": '{"evil": 1}',
    }
    return [
        *found,
        _case("launch-again-never", "refused", again(lambda run: None), "run"),
        *(_case(f"launch-again-{name}", "refused", submission(text), "submission") for name, text in texts.items()),
    ]


def _one_script(room: Path, said: str) -> str:
    """A line break in a value makes no line of the script."""
    lines = [line for line in said.splitlines() if line.startswith(("#SBATCH --uid", "touch evil"))]
    return f"the value of a flag became a line of the script: {lines[0]}" if lines else ""


def _field(name: str) -> str:
    return {"local": "local|sweep", "then": "then", "save": "save"}.get(name.partition("-")[0], name.partition("-")[0])


def _profiles() -> list[Case]:
    texts: dict[str, tuple[Wants, bytes]] = {
        "nothing": ("taken", b""),
        "garbage": ("refused", b"[default\nx"),
        "binary": ("refused", b"\xff\xfe\x00"),
        "no-table": ("refused", b"nodes = 2\n"),
        "table-is-a-list": ("refused", b"default = [1]\n"),
        "key-unknown": ("refused", b"[default]\nnods = 2\n"),
        "nodes-text": ("refused", b'[default]\nnodes = "two"\n'),
        "nodes-true": ("refused", b"[default]\nnodes = true\n"),
        "nodes-0": ("refused", b"[default]\nnodes = 0\n"),
        "nodes-float": ("refused", b"[default]\nnodes = 1.5\n"),
        "nodes-10^30": ("refused", b"[default]\nnodes = 1000000000000000000000000000000\n"),
        "time-date": ("refused", b"[default]\ntime = 2020-01-01\n"),
        "time-number": ("refused", b"[default]\ntime = 60\n"),
        "setup-text": ("refused", b'[default]\nsetup = "module load"\n'),
        "setup-numbers": ("refused", b"[default]\nsetup = [1, 2]\n"),
        "partition-newline": ("either", b'[default]\npartition = "a\\ntouch evil"\n'),
        "partition-escapes": ("either", b'[default]\npartition = "\\u001b[31mred"\n'),
        "key-escapes": ("refused", b'[default]\n"\\u001b[31mred" = 1\n'),
        "sbatch-owned": ("refused", b'[default]\nsbatch = ["array=0-9"]\n'),
        "deep": ("refused", b"[default]\nx = " + b"[" * 50_000 + b"]" * 50_000 + b"\n"),
        "runtime-unknown": ("refused", b'[default]\ncontainer_runtime = "docker"\n'),
    }
    found = [
        _case(f"profile-{name}", wants, with_profile(text), _profile(name)) for name, (wants, text) in texts.items()
    ]

    def instead(put: Callable[[Path], Any]) -> Any:
        return launched([], lambda room: put(room / "cluster.toml"))

    return [
        *found,
        _case("profile-unknown", "refused", with_profile(b"", "--profile", "\x1b[31mbig"), "profile"),
        _case("profile-a-folder", "refused", instead(lambda path: path.mkdir()), "cluster.toml"),
        _case("profile-a-pipe", "refused", instead(lambda path: os.mkfifo(path)), "cluster.toml"),
        _case("profile-a-link-loop", "refused", instead(lambda path: path.symlink_to(path.name)), "cluster.toml"),
        _case("profile-zeros", "refused", instead(lambda path: path.symlink_to("/dev/zero")), "cluster.toml"),
    ]


def _profile(name: str) -> str:
    return (
        "nodes" if name == "nodes-0" else "partition" if name.startswith("partition") else "cluster.toml|nodes|sbatch"
    )


def _sweeps() -> list[Case]:
    table: dict[str, tuple[Wants, list[str]]] = {
        "sound": ("taken", ["seed=0,1"]),
        "no-equals": ("refused", ["seed"]),
        "nothing": ("refused", [""]),
        "no-values": ("refused", ["seed="]),
        "empty-values": ("refused", ["seed=,,"]),
        "twice": ("refused", ["seed=0,1", "seed=2"]),
        "same-value": ("refused", ["seed=0,0"]),
        "field-unknown": ("refused", ["no.such=1,2"]),
        "value-nan": ("refused", ["optim.lr=nan,1e-3"]),
        "value-path": ("refused", ["optim.lr=../../x,1"]),
        "run-dir": ("refused", ["run_dir=a,b"]),
        "dashes": ("refused", ["--seed=0,1"]),
        "escapes": ("refused", ["\x1b[31mseed=0,1"]),
        "million": (
            "refused",
            [f"seed={','.join(map(str, range(1000)))}", f"steps={','.join(map(str, range(1, 1001)))}"],
        ),
    }
    return [
        _case(
            f"sweep-{name}",
            wants,
            launched(["--sweep", *sweep]),
            "" if wants == "taken" else "sweep|seed|lr|run_dir|such|array|steps",
        )
        for name, (wants, sweep) in table.items()
    ]


def runs(fill: Callable[[Path], Any], words: Words) -> Any:
    def make(room: Room) -> Sequence[Words]:
        (room / "runs").mkdir()
        room.take("run").rename(room / "runs" / "sound")
        fill(room / "runs")
        return (words,)

    return make


def odd(runs: Path) -> None:
    for number, text in enumerate(
        ("", "[]", "{", '{"recipe": 5, "run": []}', '{"recipe": "\\u001b[31m", "run": {}}', "\0")
    ):
        (runs / f"odd{number}").mkdir()
        (runs / f"odd{number}" / "run.json").write_text(text)
    (runs / "pipe").mkdir()
    os.mkfifo(runs / "pipe" / "run.json")
    (runs / "loop").symlink_to(".")
    (runs / "file").write_text("x")


def records(text: bytes) -> Callable[[Path], None]:
    def fill(runs: Path) -> None:
        (runs / "sound" / "cluster" / "nodes").mkdir(parents=True)
        for name in ("jobs.jsonl", "attempts.jsonl", "nodes/x.json", "cancelled"):
            (runs / "sound" / "cluster" / name).write_bytes(text)

    return fill


def _watching() -> list[Case]:

    def jobs(**values: Any) -> Callable[[Path], None]:
        sound = dict(job="1", kind="pretrain", submitted=1.7e9, log="x.err", nodes=1, processes=1)
        return records(json.dumps({**sound, **values}).encode() + b"\n")

    def many(runs: Path) -> None:
        for number in range(200):
            (runs / f"r{number}").mkdir()
            (runs / f"r{number}" / "run.json").write_bytes((runs / "sound" / "run.json").read_bytes())

    def all_named(room: Path, said: str) -> str:
        missing = [f"odd{number}" for number in range(6) if f"odd{number}" not in said]
        return f"{missing[0]} of the folder is not shown, nor said to be damaged" if missing else ""

    status, as_json = ["status", "runs"], ["status", "runs", "--json"]
    table: dict[str, tuple[Wants, Any, Any]] = {
        "odd-runs": ("taken", runs(odd, status), all_named),
        "odd-runs-as-json": ("taken", runs(odd, as_json), all_named),
        "odd-runs-reported": ("either", runs(odd, ["report", "runs/sound", "runs/odd3", "--no-look"]), None),
        "records-garbage": ("taken", runs(records(b"\xff\x00{]\n[]\n5\nnull\n"), status), None),
        "records-deep": ("taken", runs(records(b"[" * 100_000 + b"\n"), status), None),
        "jobs-numbers": ("taken", runs(jobs(job=5, nodes="x", submitted="never"), status), None),
        "jobs-1e308": ("taken", runs(jobs(submitted=1e308, nodes=10**30), as_json), None),
        "jobs-escapes": ("taken", runs(jobs(job="\x1b[31m1", log="\x1b]0;x\x07"), status), None),
        "jobs-flag": ("taken", runs(jobs(job="--help"), status), None),
        "jobs-log-a-device": ("either", runs(jobs(log="/dev/zero"), ["logs", "runs/sound", "--job"]), None),
        "jobs-log-secret": ("either", runs(jobs(log="/etc/passwd"), ["logs", "runs/sound", "--job"]), _no_passwords),
        "two-hundred": ("taken", runs(many, status), None),
        "nowhere": ("refused", lambda room: (["status", "not-there"],), None),
        "a-device": ("refused", lambda room: (["status", "/dev/zero"],), None),
        "empty": ("either", lambda room: ((room / "runs").mkdir(), (status,))[1], None),
        "watch-0": ("refused", lambda room: (["status", "--watch", "0"],), None),
        "watch-nan": ("refused", lambda room: (["status", "--watch", "nan"],), None),
        "cancel-not-submitted": ("refused", runs(lambda folder: None, ["cancel", "runs/sound"]), None),
        "cancel-nowhere": ("refused", lambda room: (["cancel", "not-there"],), None),
        "cancel-records-garbage": ("refused", runs(records(b"\xff{]\n"), ["cancel", "runs/sound", "--now"]), None),
        "logs-rank-99": ("refused", runs(lambda folder: None, ["logs", "runs/sound", "--rank", "99"]), None),
        "logs-rank-below-0": ("refused", runs(lambda folder: None, ["logs", "runs/sound", "--rank", "-1"]), None),
        "logs-lines-10^30": (
            "either",
            runs(lambda folder: None, ["logs", "runs/sound", "--lines", "1" + "0" * 30]),
            None,
        ),
        "logs-nowhere": ("refused", lambda room: (["logs", "not-there"],), None),
        "doctor-nowhere": ("refused", lambda room: (["doctor", "not-there"],), None),
        "doctor-ranks-0": ("refused", runs(lambda folder: None, ["doctor", "runs/sound", "--ranks", "0"]), None),
        "doctor-odd-run": ("refused", runs(odd, ["doctor", "runs/odd3"]), None),
    }
    return [_case(f"watching-{name}", wants, make, lost=lost) for name, (wants, make, lost) in table.items()]


def _no_passwords(room: Path, said: str) -> str:
    return "a file outside of the run was shown" if "root:x:0" in said else ""
