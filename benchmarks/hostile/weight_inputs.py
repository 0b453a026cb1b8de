"""Files of weights: for ``--start.weights``, and timm folders for ``eyespot eval``."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hostile.case import TRAIN, Case, Room, Wants, Words
from safetensors.numpy import load_file, save_file

START: Sequence[Words] = ([*TRAIN, "--start.weights", "encoder.safetensors"],)
EVAL: Sequence[Words] = (["eval", "knn", "timm", "shards", "--out", "judged"],)
Content = Callable[[bytes], bytes]


class Evil:
    """What a pickle of a stranger may hold."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch evil",)


def pickled(protocol: int = 2) -> bytes:
    return pickle.dumps({"model": Evil()}, protocol)


def torch_zip(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def changed(change: Callable[[dict[str, np.ndarray]], Any]) -> Content:
    """The tensors changed."""

    def spoil(content: bytes) -> bytes:
        from tempfile import NamedTemporaryFile

        with NamedTemporaryFile() as file:
            Path(file.name).write_bytes(content)
            held = {name: np.array(value) for name, value in load_file(file.name).items()}
            change(held)
            told = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
            save_file(held, file.name, told)
            return Path(file.name).read_bytes()

    return spoil


def header(change: Callable[[dict[str, Any]], Any]) -> Content:
    """The header changed, the data as it was."""

    def spoil(content: bytes) -> bytes:
        size = int.from_bytes(content[:8], "little")
        held = json.loads(content[8 : 8 + size])
        text = change(held)
        text = text if isinstance(text, bytes) else json.dumps(held).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + size :]

    return spoil


def _first(held: dict[str, Any]) -> Any:
    return held[next(iter(name for name in held if name != "__metadata__"))]


def _each(held: dict[str, np.ndarray], kind: Any) -> None:
    for name in held:
        held[name] = held[name].astype(kind)


def _one_value(value: float) -> Content:
    def change(held: dict[str, np.ndarray]) -> None:
        name = max(held, key=lambda each: held[each].size)
        held[name].flat[3] = value

    return changed(change)


def _renamed(prefix: str) -> Content:
    def change(held: dict[str, np.ndarray]) -> None:
        for name in list(held):
            held[f"{prefix}{name}"] = held.pop(name)

    return changed(change)


def _transposed(held: dict[str, np.ndarray]) -> None:
    name = next(name for name in held if held[name].ndim == 2 and held[name].shape[0] != held[name].shape[1])
    held[name] = np.ascontiguousarray(held[name].T)


def _scaled(held: dict[str, np.ndarray], factor: float) -> None:
    for name in held:
        held[name] = (held[name] * factor).astype(np.float32)


CONTENTS: dict[str, tuple[Content, Wants]] = {
    "nothing": (lambda data: b"", "refused"),
    "seven-bytes": (lambda data: b"1234567", "refused"),
    "noise": (lambda data: bytes(range(256)) * 40, "refused"),
    "web-page": (lambda data: b"<!DOCTYPE html><html>Sign in</html>", "refused"),
    "lfs-pointer": (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 44\n", "refused"),
    "pickle": (lambda data: pickled(), "refused"),
    "pickle-of-torch": (lambda data: torch_zip(pickled()), "refused"),
    "zip-bomb": (lambda data: _zip_bomb(), "refused"),
    "cut": (lambda data: data[: len(data) // 2], "refused"),
    "with-tail": (lambda data: data + b"tail" * 10, "refused"),
    "header-2^63": (lambda data: (2**63).to_bytes(8, "little") + data[8:], "refused"),
    "header-of-90-mb": (lambda data: (90 << 20).to_bytes(8, "little") + b"{" + b" " * (90 << 20), "refused"),
    "header-deep": (header(lambda held: b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "refused"),
    "header-not-utf8": (header(lambda held: b'{"\xff": 1}'), "refused"),
    "header-empty": (header(lambda held: b"{}"), "refused"),
    "offsets-overlap": (header(lambda held: _first(held).update(data_offsets=[0, 4])), "refused"),
    "offsets-beyond": (header(lambda held: _first(held).update(data_offsets=[0, 2**60])), "refused"),
    "shape-2^62": (header(lambda held: _first(held).update(shape=[2**62, 2**62])), "refused"),
    "dtype-unknown": (header(lambda held: _first(held).update(dtype="F7")), "refused"),
    "int8": (changed(lambda held: _each(held, np.int8)), "refused"),
    "int64": (changed(lambda held: _each(held, np.int64)), "refused"),
    "bool": (changed(lambda held: _each(held, np.bool_)), "refused"),
    "float64": (changed(lambda held: _each(held, np.float64)), "either"),
    "float16": (changed(lambda held: _each(held, np.float16)), "either"),
    "one-nan": (_one_value(float("nan")), "refused"),
    "one-inf": (_one_value(float("inf")), "refused"),
    "all-1e38": (changed(lambda held: _scaled(held, 1e38)), "failed"),
    "one-tensor": (changed(lambda held: [held.pop(name) for name in list(held)[1:]]), "refused"),
    "a-tensor-more": (changed(lambda held: held.update(evil=np.zeros(3, np.float32))), "taken"),
    "a-name-of-escapes": (changed(lambda held: held.update({"\x1b[31mred": np.zeros(3, np.float32)})), "taken"),
    "transposed": (changed(_transposed), "refused"),
    "of-a-wrapper": (_renamed("module."), "either"),
    "of-a-model": (_renamed("model.encoder."), "either"),
}


def _zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(600 << 20))
    return file.getvalue()


def cases() -> list[Case]:
    """All of this file."""
    return [*_starts(), *_places(), *_folders()]


def _case(name: str, wants: Wants, make: Any, says: str = "") -> Case:
    return Case(kind="weights", name=name, wants=wants, make=make, says=says, evil="evil")


def started(content: Content) -> Any:
    def make(room: Room) -> Sequence[Words]:
        room.take("shards")
        path = room.take("encoder.safetensors")
        path.write_bytes(content(path.read_bytes()))
        return START

    return make


def _starts() -> list[Case]:
    sha = Case(
        kind="weights",
        name="start-another-sha256",
        wants="refused",
        make=lambda room: (
            room.take("shards"),
            room.take("encoder.safetensors"),
            ([*START[0], "--start.sha256", "0" * 64],),
        )[2],
        says="sha256",
    )
    good = _case("start-sound", "taken", started(lambda data: data))
    found = [
        _case(f"start-{name}", wants, started(content), "weights|loss") for name, (content, wants) in CONTENTS.items()
    ]
    return [good, sha, *found]


def _places() -> list[Case]:
    def at(put: Callable[[Path], Any], wants: Wants = "refused") -> Any:
        def make(room: Room) -> Sequence[Words]:
            room.take("shards")
            put(room / "encoder.safetensors")
            return START

        return make

    return [
        _case("start-not-there", "refused", at(lambda path: None), "weights"),
        _case("start-a-folder", "refused", at(lambda path: path.mkdir()), "weights"),
        _case("start-a-pipe", "refused", at(lambda path: os.mkfifo(path)), "weights"),
        _case("start-a-link-loop", "refused", at(lambda path: path.symlink_to(path.name)), "weights"),
        _case("start-zeros", "refused", at(lambda path: path.symlink_to("/dev/zero")), "weights"),
        _case("start-of-60-gb-of-holes", "refused", at(_holes), "weights"),
    ]


def _holes(path: Path) -> None:
    path.write_bytes((20).to_bytes(8, "little") + b"{" + b" " * 19)
    os.truncate(path, 60 << 30)


def folder(spoil: Callable[[Path], Any]) -> Any:
    def make(room: Room) -> Sequence[Words]:
        room.take("shards")
        release = room.take("release")
        (room / "timm").mkdir()
        for name in ("config.json", "model.safetensors"):
            (release / name).rename(room / "timm" / name)
        spoil(room / "timm")
        return EVAL

    return make


def config(change: Callable[[dict[str, Any]], Any]) -> Any:
    def spoil(timm: Path) -> None:
        held = json.loads((timm / "config.json").read_bytes())
        text = change(held)
        (timm / "config.json").write_text(text if isinstance(text, str) else json.dumps(held))

    return folder(spoil)


def weights(content: Content) -> Any:
    path = "model.safetensors"
    return folder(lambda timm: (timm / path).write_bytes(content((timm / path).read_bytes())))


def cfg(**values: Any) -> Any:
    return config(lambda held: held["pretrained_cfg"].update(values))


CONFIGS: dict[str, tuple[Any, Wants]] = {
    "architecture-5": (config(lambda held: held.update(architecture=5)), "refused"),
    "architecture-unknown": (config(lambda held: held.update(architecture="no_such_net")), "refused"),
    "architecture-giant": (config(lambda held: held.update(architecture="vit_giant_patch14_224")), "refused"),
    "architecture-another": (config(lambda held: held.update(architecture="resnet18")), "refused"),
    "args-list": (config(lambda held: held.update(model_args=[1])), "refused"),
    "args-depth-10^6": (config(lambda held: held.update(model_args={"depth": 10**6})), "refused"),
    "args-width-10^7": (config(lambda held: held.update(model_args={"embed_dim": 10**7})), "refused"),
    "args-unknown": (config(lambda held: held.update(model_args={"evil": 1})), "refused"),
    "cfg-null": (config(lambda held: held.update(pretrained_cfg=None)), "either"),
    "cfg-list": (config(lambda held: held.update(pretrained_cfg=[1])), "either"),
    "mean-text": (cfg(mean="abc"), "refused"),
    "mean-nan": (cfg(mean=[float("nan")] * 3), "refused"),
    "std-0": (cfg(std=[0, 0, 0]), "refused"),
    "size-10^6": (cfg(input_size=[3, 10**6, 10**6]), "either"),
    "size-text": (cfg(input_size="big"), "refused"),
    "size-0": (cfg(input_size=[3, 0, 0]), "either"),
    "size-1-channel": (cfg(input_size=[1, 24, 24]), "refused"),
    "crop-0": (cfg(crop_pct=0), "either"),
    "crop-nan": (cfg(crop_pct=float("nan")), "refused"),
    "crop-1e9": (cfg(crop_pct=1e9), "either"),
    "crop-1e-9": (cfg(crop_pct=1e-9), "either"),
    "interpolation-unknown": (cfg(interpolation="magic"), "either"),
    "file-goes-up": (cfg(file="../../../etc/passwd"), "either"),
    "url": (cfg(url="http://127.0.0.1:9/x.pth", hf_hub_id="evil/model"), "either"),
    "config-deep": (config(lambda held: '{"a":' * 100_000 + "1" + "}" * 100_000), "refused"),
    "config-list": (config(lambda held: "[]"), "refused"),
    "config-nothing": (config(lambda held: ""), "refused"),
    "config-a-pipe": (
        folder(lambda timm: ((timm / "config.json").unlink(), os.mkfifo(timm / "config.json"))),
        "refused",
    ),
    "no-weights": (folder(lambda timm: (timm / "model.safetensors").unlink()), "refused"),
    "weights-pickled": (
        folder(
            lambda timm: (
                (timm / "model.safetensors").unlink(),
                (timm / "pytorch_model.bin").write_bytes(torch_zip(pickled())),
            )
        ),
        "refused",
    ),
    "weights-a-folder": (
        folder(lambda timm: ((timm / "model.safetensors").unlink(), (timm / "model.safetensors").mkdir())),
        "refused",
    ),
}


def _folders() -> list[Case]:

    chosen = (
        "pickle",
        "cut",
        "nothing",
        "one-nan",
        "int8",
        "header-2^63",
        "shape-2^62",
        "one-tensor",
        "transposed",
        "a-name-of-escapes",
    )
    found = [
        _case(f"timm-{name}", wants, make, "timm|config|model|weights|size|std")
        for name, (make, wants) in CONFIGS.items()
    ]
    return [
        *found,
        *(
            _case(f"timm-weights-{name}", "refused", weights(CONTENTS[name][0]), "timm|weights|encoder|finite|feature")
            for name in chosen
        ),
    ]
