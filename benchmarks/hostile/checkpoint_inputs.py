"""Checkpoints of strangers: safetensors that lie, meta.json of wrong kinds; evaluated, released, gone on from."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hostile.case import Case, Wants, Words
from hostile.run_inputs import EVAL, RELEASE, RESUME, Spoil, of_json, spoilt
from hostile.weight_inputs import changed, header

STEP = "checkpoints/step-00000003"


def meta(change: Callable[[Any], Any]) -> Spoil:
    """Changes the meta.json of the newest checkpoint."""
    return of_json(f"{STEP}/meta.json", change)


def weights(change: Callable[[bytes], bytes]) -> Spoil:
    """Changes its tensors' file, and writes the new sha256 into meta.json, as a liar would."""

    def spoil(run: Path) -> None:
        path = run / STEP / "rank-00000.safetensors"
        content = change(path.read_bytes())
        path.write_bytes(content)
        meta(lambda held: held["files"].update({path.name: hashlib.sha256(content).hexdigest()}))(run)

    return spoil


def _case(name: str, wants: Wants, spoil: Spoil, commands: Sequence[Words], says: str = "") -> Case:
    make = spoilt(spoil, commands)
    return Case(kind="checkpoints", name=name, wants=wants, make=make, says=says, evil="evil")


def first(held: dict[str, Any]) -> dict[str, Any]:
    return held[next(name for name in held if name.startswith("model.encoder."))]


def nan(held: dict[str, np.ndarray]) -> None:
    for name in held:
        if name.startswith("model.encoder.") and held[name].dtype == np.float32:
            held[name] = np.full_like(held[name], np.nan)


def cases() -> list[Case]:
    """All of this file."""

    contents: dict[str, tuple[Callable[[bytes], bytes], Wants]] = {
        "header-2^63": (lambda data: (2**63).to_bytes(8, "little") + data[8:], "refused"),
        "header-of-gigabytes": (lambda data: (4 << 30).to_bytes(8, "little") + data[8:], "refused"),
        "header-0": (lambda data: bytes(8) + data[8:], "refused"),
        "header-deep": (header(lambda held: b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "refused"),
        "header-a-list": (header(lambda held: b"[1,2,3]"), "refused"),
        "cut": (lambda data: data[: len(data) // 2], "refused"),
        "nothing": (lambda data: b"", "refused"),
        "pickle": (lambda data: b"\x80\x04cos\nsystem\n(S'touch evil'\ntR.", "refused"),
        "offsets-beyond": (header(lambda held: first(held).update(data_offsets=[0, 2**40])), "refused"),
        "offsets-backwards": (header(lambda held: first(held).update(data_offsets=[400, 0])), "refused"),
        "shape-below-0": (header(lambda held: first(held).update(shape=[-1, 5])), "refused"),
        "shape-2^62": (header(lambda held: first(held).update(shape=[2**62])), "refused"),
        "dtype-unknown": (header(lambda held: first(held).update(dtype="F7")), "refused"),
        "dtype-int": (header(lambda held: first(held).update(dtype="I32")), "refused"),
        "encoder-missing": (
            changed(lambda held: [held.pop(n) for n in list(held) if n.startswith("model.encoder.")]),
            "refused",
        ),
        "tensor-missing": (changed(lambda held: held.pop("model.encoder.cls_token", None)), "refused"),
        "tensor-more": (changed(lambda held: held.update({"model.encoder.evil": np.zeros(3, np.float32)})), "refused"),
        "nan": (changed(nan), "refused"),
    }
    found = [
        _case(f"{name}-evaluated", wants, weights(change), EVAL, "checkpoint|encoder|finite|nan")
        for name, (change, wants) in contents.items()
    ]
    metas: dict[str, Callable[[Any], Any]] = {
        "format-99": lambda held: held.update(format=99),
        "format-text": lambda held: held.update(format="1"),
        "step-text": lambda held: held.update(step="3"),
        "step-10^30": lambda held: held.update(step=10**30),
        "step-below-0": lambda held: held.update(step=-3),
        "files-list": lambda held: held.update(files=["rank-00000.safetensors"]),
        "files-go-up": lambda held: held.update(files={"../../run.json": "0" * 64}),
        "files-of-numbers": lambda held: held.update(files={"rank-00000.safetensors": 5}),
        "files-empty": lambda held: held.update(files={}),
        "loader-list": lambda held: held.update(loader=[]),
        "loader-garbage": lambda held: held.update(loader={"samples_consumed": "many"}),
        "loader-10^30": lambda held: held.update(loader={"samples_consumed": 10**30}),
        "deep": lambda held: "[" * 100_000,
        "a-list": lambda held: "[]",
        "unknown-field": lambda held: held.update(evil=1),
    }
    found += [_case(f"meta-{name}-evaluated", "either", meta(change), EVAL) for name, change in metas.items()]
    found += [
        _case(f"meta-{name}-released", "either", meta(metas[name]), RELEASE)
        for name in ("loader-garbage", "step-10^30")
    ]
    resumed = ("loader-garbage", "loader-list", "loader-10^30", "step-10^30", "step-text", "files-go-up")
    return [*found, *(_case(f"meta-{name}-resumed", "either", meta(metas[name]), RESUME) for name in resumed)]
