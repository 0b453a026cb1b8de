"""What a release must not survive: each damage is one line that says what it is."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from released_runs import change_json, copy_of
from safetensors.torch import load, save_file

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.layout import sha256, write_sums
from eyespot.eval.release.verify import verified

Damage = Callable[[Path, Path], object]


def flip(name: str) -> Damage:
    def damage(folder: Path, other: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[-5] ^= 1
        (folder / name).write_bytes(data)

    return damage


def with_sums(damage: Damage) -> Damage:
    """The same by somebody who makes SHA256SUMS fit."""

    def careful(folder: Path, other: Path) -> None:
        damage(folder, other)
        write_sums(folder)

    return careful


def truncate(folder: Path, other: Path) -> None:
    os.truncate(folder / "model.safetensors", 100_000)


def swap(folder: Path, other: Path) -> None:
    shutil.copyfile(other / "model.safetensors", folder / "model.safetensors")


def swap_with_provenance(folder: Path, other: Path) -> None:
    """Weights and what names them, but not the golden features."""
    swap(folder, other)
    digest = json.loads((other / "provenance.json").read_text())["weights_sha256"]
    change_json(folder / "provenance.json", "weights_sha256", value=digest)


def pickle_weights(folder: Path, other: Path) -> None:
    torch.save(load((folder / "model.safetensors").read_bytes()), folder / "model.safetensors")


def bare_pickle(folder: Path, other: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04\x95rest")


def wrong_mean(folder: Path, other: Path) -> None:
    change_json(folder / "config.json", "pretrained_cfg", "mean", value=[0.5, 0.5, 0.5])


def wrong_mean_everywhere(folder: Path, other: Path) -> None:
    wrong_mean(folder, other)
    change_json(folder / "provenance.json", "input", "mean", value=[0.5, 0.5, 0.5])


def wrong_size_everywhere(folder: Path, other: Path) -> None:
    change_json(folder / "config.json", "pretrained_cfg", "input_size", value=[3, 32, 32])
    change_json(folder / "provenance.json", "input", "input_size", value=[3, 32, 32])


def fewer_blocks(folder: Path, other: Path) -> None:
    change_json(folder / "config.json", "model_args", "depth", value=3)


def unknown_architecture(folder: Path, other: Path) -> None:
    change_json(folder / "config.json", "architecture", value="vit_of_tomorrow")


def provenance_with(name: str, value: object) -> Damage:
    return lambda folder, other: change_json(folder / "provenance.json", name, value=value)


def lose_a_tensor(folder: Path, other: Path) -> None:
    tensors = load((folder / "model.safetensors").read_bytes())
    del tensors["norm.weight"]
    save_file(tensors, folder / "model.safetensors")


def no_golden_features(folder: Path, other: Path) -> None:
    golden = load((folder / "golden.safetensors").read_bytes())
    save_file({"images": golden["images"], "input": golden["input"]}, folder / "golden.safetensors")


def link(folder: Path, other: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(other / "README.md")


def config(*keys: str, value: object) -> Damage:
    return lambda folder, other: change_json(folder / "config.json", *keys, value=value)


def provenance(*keys: str, value: object) -> Damage:
    return lambda folder, other: change_json(folder / "provenance.json", *keys, value=value)


def text(name: str, content: str) -> Damage:
    return lambda folder, other: (folder / name).write_text(content)


DAMAGES = {
    "flipped bit": (flip("model.safetensors"), "model.safetensors is damaged or swapped"),
    "flipped bit of the golden output": (flip("golden.safetensors"), "golden.safetensors is damaged or swapped"),
    "truncated": (truncate, "model.safetensors is damaged or swapped"),
    "truncated, sums fit": (with_sums(truncate), "model.safetensors is of another release"),
    "swapped": (swap, "model.safetensors is damaged or swapped"),
    "swapped, sums fit": (with_sums(swap), "model.safetensors is of another release"),
    "swapped, provenance fits": (swap_with_provenance, "features of the golden input are off by"),
    "pickle": (pickle_weights, "model.safetensors is a pickle, not safetensors"),
    "pickle, sums fit": (with_sums(pickle_weights), "model.safetensors is a pickle, not safetensors"),
    "bare pickle": (with_sums(bare_pickle), "model.safetensors is a pickle, not safetensors"),
    "pickle beside": (text("pytorch_model.bin", "x"), "pytorch_model.bin does not belong to a release"),
    "wrong mean": (wrong_mean, r"mean is \[0.5, 0.5, 0.5\] in config.json but \[0.3"),
    "wrong mean everywhere": (wrong_mean_everywhere, "golden images do not become the golden input"),
    "wrong size everywhere": (wrong_size_everywhere, "config.json says 32 pixels, golden.safetensors has 16"),
    "wrong licence": (config("pretrained_cfg", "license", value="mit"), "the licence of config.json is not that of"),
    "fewer blocks": (fewer_blocks, "model_args.depth: no release has it"),
    "a step in words": (provenance_with("step", "many"), "provenance.json: step: expected int"),
    "a step without end": (provenance_with("step", 10**30), "provenance.json: .*step|provenance.json: .*integer"),
    "a name that is a list": (provenance_with("name", ["a"]), "provenance.json: name: expected str"),
    "no recipe": (provenance_with("recipe", None), "provenance.json: recipe: expected str"),
    "unknown architecture": (unknown_architecture, "timm .* cannot load it"),
    "a tensor less": (with_sums(lose_a_tensor), "model.safetensors is of another release"),
    "no features": (with_sums(no_golden_features), r"golden.safetensors holds the features \[\]"),
    "no pretrained_cfg": (config("pretrained_cfg", value=[]), "config.json has no pretrained_cfg"),
    "other format": (provenance("format", value="eyespot-release/9"), "install the version that wrote it"),
    "not JSON": (with_sums(text("config.json", "{")), "config.json: not JSON"),
    "JSON, no object": (with_sums(text("provenance.json", "[]")), "provenance.json: expected object"),
    "deep JSON": (with_sums(text("config.json", "[" * 100_000)), "config.json: nested too deep"),
    "missing card": (lambda folder, other: (folder / "README.md").unlink(), "README.md is missing"),
    "missing sums": (lambda folder, other: (folder / "SHA256SUMS").unlink(), "no SHA256SUMS inside"),
    "card not listed": (lambda folder, other: _without_line(folder), "SHA256SUMS does not list README.md"),
    "sums of elsewhere": (text("SHA256SUMS", f"{'0' * 64}  ../../etc/passwd\n"), "which no release has"),
    "sums are bytes": (lambda folder, other: (folder / "SHA256SUMS").write_bytes(b"\xff\xfe"), "cannot be read"),
    "link": (link, "README.md is no regular file"),
    "folder": (lambda folder, other: (folder / "model.onnx").mkdir(), "model.onnx is no regular file"),
}


def _without_line(folder: Path) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in lines if "README" not in line))


def test_an_undamaged_release_passes(released: Path):
    assert verified(released)["checkpoint"] == "step-00000012"


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_refused_in_one_line(released: Path, other: Path, tmp_path: Path, what: str):
    damage, words = DAMAGES[what]
    folder = copy_of(released, tmp_path / "copy")
    damage(folder, other)
    with pytest.raises(UserError, match=words) as error:
        verified(folder)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"release {folder}: ")


@pytest.mark.parametrize("first", [0x80, 0x50])
def test_a_header_whose_length_looks_like_a_pickle(released: Path, tmp_path: Path, first: int):
    """The first byte of a safetensors file is the lowest of its header's length."""
    folder = copy_of(released, tmp_path / "copy")
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    padding = (first - size) % 256
    header = (size + padding).to_bytes(8, "little") + data[8 : 8 + size] + b" " * padding
    (folder / "model.safetensors").write_bytes(header + data[8 + size :])
    write_sums(folder)
    change_json(folder / "provenance.json", "weights_sha256", value=sha256(folder / "model.safetensors"))
    assert header[0] == first and verified(folder)


def test_no_folder(tmp_path: Path):
    with pytest.raises(UserError, match="no such folder"):
        verified(tmp_path / "absent")


def test_a_run_is_no_release(tmp_path: Path):
    (tmp_path / "run.json").touch()
    with pytest.raises(UserError, match=r"is a run; make a release of it: eyespot release"):
        verified(tmp_path)
