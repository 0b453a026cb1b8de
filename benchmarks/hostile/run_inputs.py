"""Run folders of strangers: run.json, metrics, checkpoints, and what lies in their place."""

import json
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hostile.case import TRAIN, Case, Room, Wants, Words

Spoil = Callable[[Path], Any]
"""Changes the folder ``run``."""
EVAL: Sequence[Words] = (["eval", "knn", "run", "shards", "--out", "judged"],)
REPORT: Sequence[Words] = (["report", "run", "--out", "page.html", "--no-look"],)
STATUS: Sequence[Words] = (["status", "run"],)
STATUS_JSON: Sequence[Words] = (["status", "run", "--json"],)
RELEASE: Sequence[Words] = (["release", "run", "--license", "mit", "--allow-dirty", "--no-evaluation", "--out", "out"],)
AGAIN: Sequence[Words] = (["pretrain", "--from", "run/run.json", "--run-dir", "again", "--steps", "2", "--no-track"],)
RESUME: Sequence[Words] = ([*TRAIN[:-2], "--run-dir", "run", "--steps", "6", "--resume", "auto"],)
LOGS: Sequence[Words] = (["logs", "run"],)
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
CANARY = (
    "from pathlib import Path\nPath('evil').write_text('ran')\ndef recipe():\n    Path('evil').write_text('called')\n"
)


def spoilt(spoil: Spoil, commands: Sequence[Words]) -> Any:
    def make(room: Room) -> Sequence[Words]:
        room.take("shards")
        run = room.take("run")
        (room / "on_path").mkdir()
        (room / "on_path" / "canary.py").write_text(CANARY)
        (room / "canary.py").write_text(CANARY)
        spoil(run)
        return commands

    return make


def of_json(name: str, change: Callable[[Any], Any]) -> Spoil:
    def spoil(run: Path) -> None:
        held = json.loads((run / name).read_bytes())
        changed = change(held)
        (run / name).write_text(changed if isinstance(changed, str) else json.dumps(held))

    return spoil


def with_values(**values: Any) -> Spoil:
    return of_json("run.json", lambda held: held.update(values))


def with_settings(**values: Any) -> Spoil:
    return of_json("run.json", lambda held: held["run"].update(values))


def cases() -> list[Case]:
    """All of this file."""
    return [*_recipes(), *_fields(), *_files(), *_metrics()]


def _case(name: str, wants: Wants, spoil: Spoil, commands: Sequence[Words], says: str = "", **options: Any) -> Case:
    return Case(
        kind="run folders", name=name, wants=wants, make=spoilt(spoil, commands), says=says, evil="evil", **options
    )


def _recipes() -> list[Case]:
    words = {"evaluated": EVAL, "reported": REPORT, "released": RELEASE, "repeated": AGAIN}
    table = {
        "os:abort": ("evaluated", "reported", "released", "repeated"),
        "posix:_exit": ("evaluated", "repeated"),
        "builtins:exec": ("evaluated",),
        "builtins:breakpoint": ("evaluated", "released"),
        "code:interact": ("evaluated",),
        "eyespot.cluster.cli:main": ("evaluated", "released"),
        "eyespot.data_pipeline.errors:UserError": ("evaluated",),
        "eyespot.pretrain.recipes.gate:Gate": ("evaluated",),
        "canary:recipe": ("evaluated", "reported", "released", "repeated"),
        "canary:gone": ("evaluated",),
        "antigravity:x": ("evaluated",),
        "this:x": ("evaluated",),
        "no_such_package.module:recipe": ("evaluated", "reported"),
        "mae_tiny:x": ("evaluated",),
        "../canary:recipe": ("evaluated",),
        ":": ("evaluated",),
        "a:b:c": ("repeated",),
        "\x1b[31mred": ("evaluated", "reported"),
        "x" * 100_000: ("evaluated",),
        "": ("evaluated",),
    }
    return [
        _case(
            f"recipe {recipe.encode('unicode_escape').decode()[:40]}, {how}",
            "refused" if how != "reported" else "either",
            with_values(recipe=recipe),
            words[how],
            "recipe|run.json",
        )
        for recipe, hows in table.items()
        for how in hows
    ]


TOP: dict[str, Spoil] = {
    "recipe-5": with_values(recipe=5),
    "recipe-null": with_values(recipe=None),
    "run-a-list": with_values(run=[1]),
    "run-deep": of_json("run.json", lambda held: json.dumps(held)[:-1] + ', "run": ' + DEEP + "}"),
    "run-empty": with_values(run={}),
    "normalization-text": with_values(normalization={"mean": "abc", "std": "abc"}),
    "normalization-nan": with_values(normalization={"mean": [float("nan")] * 3, "std": [1, 1, 1]}),
    "normalization-0": with_values(normalization={"mean": [0, 0, 0], "std": [0, 0, 0]}),
    "normalization-1e400": of_json(
        "run.json", lambda held: json.dumps(held)[:-1] + ', "normalization": {"mean": [1e400,0,0], "std": [1,1,1]}}'
    ),
    "encoder-text": with_settings(encoder="resnet18"),
    "encoder-list": with_settings(encoder=[1]),
    "encoder-name-5": of_json("run.json", lambda held: held["run"]["encoder"].update(name=5)),
    "encoder-name-null": of_json("run.json", lambda held: held["run"]["encoder"].update(name=None)),
    "encoder-name-hub": of_json("run.json", lambda held: held["run"]["encoder"].update(name="hf-hub:evil/model")),
    "encoder-name-local": of_json("run.json", lambda held: held["run"]["encoder"].update(name="local-dir:/etc")),
    "encoder-size-10^9": of_json("run.json", lambda held: held["run"]["encoder"].update(image_size=10**9)),
    "encoder-size-100000": of_json("run.json", lambda held: held["run"]["encoder"].update(image_size=100_000)),
    "encoder-size-text": of_json("run.json", lambda held: held["run"]["encoder"].update(image_size="24")),
    "encoder-size-float": of_json("run.json", lambda held: held["run"]["encoder"].update(image_size=24.5)),
    "encoder-another": of_json("run.json", lambda held: held["run"]["encoder"].update(name="resnet10t")),
    "encoder-giant": of_json(
        "run.json",
        lambda held: held["run"]["encoder"].update(name="vit_giant_patch14_224", image_size=224, patch_size=None),
    ),
    "steps-10^30": with_settings(steps=10**30),
    "steps-text": with_settings(steps="3"),
    "steps-true": with_settings(steps=True),
    "seed-below-0": with_settings(seed=-1),
    "seed-2^70": with_settings(seed=2**70),
    "batch-text": of_json("run.json", lambda held: held["run"]["data"].update(batch_size="16")),
    "precision-unknown": with_settings(precision="fp7"),
    "objective-list": with_settings(objective=[]),
    "objective-field-unknown": of_json("run.json", lambda held: held["run"]["objective"].update(evil=1)),
    "objective-width-10^9": of_json("run.json", lambda held: held["run"]["objective"].update(decoder_dim=10**9)),
    "objective-width-10^6": of_json("run.json", lambda held: held["run"]["objective"].update(decoder_dim=10**6)),
    "objective-depth-10^9": of_json("run.json", lambda held: held["run"]["objective"].update(decoder_depth=10**9)),
    "objective-depth-1000": of_json("run.json", lambda held: held["run"]["objective"].update(decoder_depth=1000)),
    "objective-share-text": of_json("run.json", lambda held: held["run"]["objective"].update(mask_ratio="x")),
    "shards-a-list": of_json("run.json", lambda held: held["run"]["data"].update(shards=["a"])),
    "field-unknown": with_settings(unknown=3),
    "field-dunder": with_settings(__class__="os.system"),
    "field-escapes": with_settings(**{"\x1b[31mred": 1}),
}


def _fields() -> list[Case]:
    harmless = (
        "steps-true",
        "steps-text",
        "steps-10^30",
        "seed-below-0",
        "seed-2^70",
        "run-empty",
        "shards-a-list",
        "batch-text",
        "precision-unknown",
    )
    found = [
        _case(
            f"{name}-evaluated",
            "either" if name in harmless else "refused",
            spoil,
            EVAL,
            "run|encoder|checkpoint|objective|steps|finite|std|seed|size",
        )
        for name, spoil in TOP.items()
    ]
    shown = ("steps-10^30", "steps-text", "recipe-5", "encoder-list", "run-a-list", "field-escapes", "run-deep")
    found += [_case(f"{name}-{how}", "either", TOP[name], words) for name in shown for how, words in _views()]
    more: dict[str, Spoil] = {
        "argv-of-objects": with_values(argv=[{}, 1, None, "\x1b[31m"]),
        "argv-text": with_values(argv="rm -rf"),
        "hardware-list": with_values(hardware=[1]),
        "hardware-escapes": with_values(hardware={"cpu": "\x1b[31m", "gpus": {"\x07": []}}),
        "versions-escapes": with_values(versions={"\x1b]0;x\x07": "<script>alert(1)</script>"}),
        "world-size-text": with_values(world_size="two"),
        "started-garbage": with_values(started="yesterday \x1b[31m"),
        "run-key-path": with_values(run_key="../../../evil"),
        "git-script": with_values(git_commit="<img src=x onerror=alert(1)>"),
    }
    found += [_case(f"{name}-reported", "either", spoil, REPORT) for name, spoil in more.items()]
    return found


def _views() -> list[tuple[str, Sequence[Words]]]:
    return [("reported", REPORT), ("asked", STATUS)]


def instead(name: str, kind: str) -> Spoil:
    def spoil(run: Path) -> None:
        path = run / name
        if path.is_dir():
            path.rename(run / "before")
        else:
            path.unlink(missing_ok=True)
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            here = os.open(".", os.O_RDONLY)
            os.chdir(path.parent)
            socket.socket(socket.AF_UNIX).bind(path.name)
            os.fchdir(here)
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "zeros":
            path.symlink_to("/dev/zero")
        elif kind == "nothing":
            path.write_bytes(b"")
        elif kind == "file":
            path.write_text("x")

    return spoil


def _files() -> list[Case]:

    newest = "checkpoints/step-00000003"
    listed: list[tuple[str, str, str, Sequence[Words], Wants]] = [
        *(
            ("run.json", kind, "evaluated", EVAL, "refused")
            for kind in ("folder", "pipe", "socket", "loop", "zeros", "nothing")
        ),
        *(("run.json", kind, "asked", STATUS, "either") for kind in ("folder", "pipe", "zeros", "nothing")),
        *(
            ("metrics.jsonl", kind, "reported", REPORT, "either")
            for kind in ("folder", "pipe", "loop", "zeros", "nothing")
        ),
        *(("metrics.jsonl", kind, "asked", STATUS, "either") for kind in ("folder", "pipe", "zeros")),
        *(
            (f"{newest}/meta.json", kind, "evaluated", EVAL, "either")
            for kind in ("folder", "pipe", "zeros", "nothing")
        ),
        *(
            (f"{newest}/rank-00000.safetensors", kind, "evaluated", EVAL, "either")
            for kind in ("folder", "pipe", "zeros", "nothing")
        ),
        ("checkpoints", "file", "evaluated", EVAL, "refused"),
        ("checkpoints", "pipe", "asked", STATUS, "either"),
        ("checkpoints/latest", "pipe", "evaluated", EVAL, "either"),
        ("checkpoints/latest", "zeros", "evaluated", EVAL, "either"),
        ("eval", "file", "reported", REPORT, "either"),
        ("eval/x.json", "pipe", "reported", REPORT, "either"),
        ("eval/x.json", "zeros", "reported", REPORT, "either"),
        ("logs/rank-0.log", "pipe", "read", LOGS, "either"),
        ("logs/rank-0.log", "zeros", "read", LOGS, "either"),
        ("logs", "file", "read", LOGS, "either"),
        (".lock", "folder", "resumed", RESUME, "either"),
        (".lock", "pipe", "resumed", RESUME, "either"),
    ]
    return [
        _case(f"{name} is {kind}, {how}", wants, instead(name, kind), words, seconds=40)
        for name, kind, how, words, wants in listed
    ]


def _metrics() -> list[Case]:
    def of_lines(*lines: bytes, end: bytes = b"\n") -> Spoil:
        def spoil(run: Path) -> None:
            path = run / "metrics.jsonl"
            path.write_bytes(path.read_bytes() + b"\n".join(lines) + end)

        return spoil

    sound = b'{"step": 4, "time": 1700000000.0, "loss": 1.0}'
    table: dict[str, Spoil] = {
        "garbage": of_lines(b"\xff\xfe garbage", b"{]", sound),
        "nul": of_lines(b"\0" * 4096, sound),
        "no-newline-at-end": of_lines(sound, b'{"step": 5, "lo', end=b""),
        "1e308": of_lines(b'{"step": 4, "time": 1e308, "loss": 1e308}', b'{"step": 5, "time": -1e308, "loss": -1e308}'),
        "nan": of_lines(b'{"step": 4, "time": 1700000000, "loss": NaN}', b'{"step": 5, "time": 2, "loss": "NaN"}'),
        "line-of-30-mb": of_lines(b'{"step": 4, "loss": "' + b"x" * 30_000_000 + b'"}', sound),
        "deep": of_lines(b"[" * 200_000, sound),
        "step-10^30": of_lines(b'{"step": 1' + b"0" * 30 + b', "time": 1700000000, "loss": 1}'),
        "step-of-5000-digits": of_lines(b'{"step": 1' + b"0" * 5000 + b', "time": 1700000000, "loss": 1}'),
        "step-text": of_lines(b'{"step": "four", "time": "now", "loss": "low"}'),
        "step-null": of_lines(b'{"step": null, "time": null, "loss": null}'),
        "step-below-0": of_lines(b'{"step": -4, "time": -1, "loss": -1}'),
        "loss-a-list": of_lines(b'{"step": 4, "time": 1700000000, "loss": [1, {"a": 2}]}'),
        "no-object": of_lines(b"5", b"null", b'"x"', b"[]"),
        "escapes": of_lines(b'{"step": 4, "time": 1700000000, "loss": 1, "\\u001b[31mred": 3, "<script>": 4}'),
        "10000-names": of_lines(json.dumps({"step": 4, "time": 1.7e9, **{f"m{n}": n for n in range(3000)}}).encode()),
        "200000-lines": of_lines(*(b'{"step": %d, "time": %d, "loss": 1.5}' % (n, n) for n in range(4, 200_000))),
        "backwards": of_lines(*(b'{"step": %d, "time": %d, "loss": 1.5}' % (n, -n) for n in range(400, 4, -1))),
    }
    words = {"reported": REPORT, "asked": STATUS, "asked-json": STATUS_JSON}
    found = [
        _case(f"metrics {name}, {how}", "taken" if how != "reported" else "either", spoil, words[how])
        for name, spoil in table.items()
        for how in words
        if how != "asked-json" or name in ("1e308", "nan", "step-10^30", "step-text")
    ]
    found += [
        _case(f"metrics {name}, resumed", "either", table[name], RESUME)
        for name in ("garbage", "nul", "no-newline-at-end")
    ]
    odd = b"\x1b[31mred\x1b[0m \x9b2J \x07\r \xff\xfe\n" * 30
    logs = lambda run: (run / "logs" / "rank-0.log").write_bytes(odd)  # noqa: E731
    return [*found, _case("log of escapes, read", "taken", logs, LOGS)]
