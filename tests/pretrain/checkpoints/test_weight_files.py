"""Weights as people's files hold them: all of an encoder's tensors, or one line; nothing of a file is run."""

import argparse
import errno
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints.weight_files import read_weights
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return make_encoder(EncoderConfig(name="test_resnet", image_size=32)).state_dict()


def named(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def fresh(tensors):
    return {name: tensor.clone() + 1 for name, tensor in tensors.items()}


HEAD = {"fc.weight": torch.zeros(1000, 96), "fc.bias": torch.zeros(1000)}
OTHERS = {
    "classifier of timm's": lambda e: (e | HEAD, "", 2),
    "DataParallel": lambda e: (named("module.", e | HEAD), "module.", 2),
    "MoCo": lambda e: (
        {"arch": "resnet50", "epoch": 3, "state_dict": named("module.encoder_q.", e | HEAD), "optimizer": {"lr": 0.1}},
        "state_dict.module.encoder_q.",
        2,
    ),
    "DINO, the teacher alone": lambda e: (
        {"teacher": named("backbone.", e) | {"head.mlp.weight": torch.ones(3)}, "args": argparse.Namespace(lr=0.1)},
        "teacher.backbone.",
        1,
    ),
    "half precision": lambda e: (
        {name: value.half() if value.is_floating_point() else value for name, value in e.items()},
        "",
        0,
    ),
    "an objective of ours": lambda e: (named("encoder.", e) | {"head.0.weight": torch.ones(2)}, "encoder.", 1),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_what_people_have(kind, suffix, encoder, tmp_path):
    given, prefix, left = OTHERS[kind](fresh(encoder))
    path = tmp_path / f"file.{suffix}"
    if suffix == "pth":
        torch.save(given, path)
    else:
        flat = given | given.get("state_dict", {}) | given.get("teacher", {})
        prefix = prefix.removeprefix("state_dict.").removeprefix("teacher.")
        save_file({name: value for name, value in flat.items() if isinstance(value, torch.Tensor)}, path)
    found = read_weights(path, encoder)
    assert found.tensors.keys() == encoder.keys()
    assert found.prefix == prefix and len(found.others) == left
    for name, tensor in fresh(encoder).items():
        torch.testing.assert_close(found.tensors[name].to(tensor.dtype), tensor, rtol=1e-3, atol=1e-3)
    said = found.said()
    assert said.startswith(f"{len(encoder)} of {len(encoder)} tensors loaded")
    assert (f"named {prefix}* there" in said) == bool(prefix)
    assert (f"; {left} others of the file are not the encoder's: " in said) == bool(left)


def test_a_strangers_names_begin_no_line_of_the_log(encoder, tmp_path):
    save_file({**fresh(encoder), "x\nINFO forged": torch.zeros(1)}, tmp_path / "file.safetensors")
    assert "\n" not in (said := read_weights(tmp_path / "file.safetensors", encoder).said()) and "forged" in said


def test_of_two_encoders_the_user_says_which(encoder, tmp_path):
    one, other = fresh(encoder), fresh(fresh(encoder))
    torch.save({"student": named("module.backbone.", one), "teacher": named("backbone.", other)}, tmp_path / "both.pth")
    two = r"holds 2 encoders, named student.module.backbone.\*, teacher.backbone.\*; say which"
    with pytest.raises(
        UserError, match=r"^objective.gram_weights .*; save the one that is meant in a file of its own$"
    ):
        read_weights(tmp_path / "both.pth", one, setting="objective.gram_weights")
    with pytest.raises(UserError, match=two):
        read_weights(tmp_path / "both.pth", encoder)
    found = read_weights(tmp_path / "both.pth", encoder, prefix="teacher.backbone")
    assert torch.equal(found.tensors["conv1.0.weight"], other["conv1.0.weight"])
    with pytest.raises(UserError, match=r"no tensor begins with start.prefix techer\.; the first is student"):
        read_weights(tmp_path / "both.pth", encoder, prefix="techer")


FIRST = "conv1.0.weight"


def changed(change):
    def make(path, encoder):
        tensors = {name: value.clone() for name, value in encoder.items()}
        change(tensors)
        save_file(tensors, path)

    return make


def with_number(number):
    def change(tensors):
        tensors["layer1.0.conv1.weight"].view(-1)[7] = number

    return changed(change)


def typed(name, dtype):
    return changed(lambda tensors: tensors.update({name: torch.ones_like(tensors[name]).to(dtype)}))


class Bomb:
    def __reduce__(self):
        return os.system, (f"touch {os.environ.get('BOMB')}",)


def a_pickle(path, encoder):
    path.write_bytes(pickle.dumps({"state_dict": Bomb()}, protocol=2))


def a_bomb_in_a_checkpoint(path, encoder):
    torch.save({"state_dict": encoder, "hook": Bomb()}, path)


def a_deeper_one(path, encoder):
    save_file(encoder | {"layer3.9.conv1.weight": torch.ones(3)}, path)


def a_fifo(path, encoder):
    os.mkfifo(path)


def a_huge_header(path, encoder):
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")


def saved_with(change):
    def make(path, encoder):
        torch.save(encoder | {FIRST: change(encoder[FIRST])}, path)

    return make


def overflowing(tensors):
    tensors[FIRST] = torch.full(tensors[FIRST].shape, 1e300, dtype=torch.float64)


WRONG = {
    "int8": (typed(FIRST, torch.int8), f"{FIRST} is int8 there and float32 in the encoder; save it as float32"),
    "bool": (typed("bn1.weight", torch.bool), "bn1.weight is bool there and float32"),
    "complex": (typed("bn1.bias", torch.complex64), "bn1.bias is complex64 there and float32"),
    "float8": (typed("bn1.bias", torch.float8_e4m3fn), "bn1.bias is float8_e4m3fn there and float32"),
    "float for int": (typed("bn1.num_batches_tracked", torch.float32), "tracked is float32 there and int64"),
    "nan": (with_number(float("nan")), r"1 of \d+ numbers of layer1.0.conv1.weight are not finite"),
    "inf": (with_number(float("-inf")), r"1 of \d+ numbers of layer1.0.conv1.weight are not finite"),
    "too large for float32": (changed(overflowing), rf"numbers of {FIRST} are not finite"),
    "missing": (changed(lambda tensors: tensors.pop("bn1.bias")), "bn1.bias is missing there"),
    "deeper": (a_deeper_one, r"layer3.9.conv1.weight is \(3,\) there and missing in the encoder"),
    "folder": (lambda path, encoder: path.mkdir(), "is a folder; name a file of weights"),
    "fifo": (a_fifo, "is no regular file"),
    "nothing": (lambda path, encoder: None, "cannot be read"),
    "empty": (lambda path, encoder: path.touch(), "cannot be read as safetensors"),
    "holes": (lambda path, encoder: (path.touch(), os.truncate(path, 60 << 30)), "has [0-9,]+ bytes, far more than"),
    "huge header": (a_huge_header, "cannot be read as safetensors"),
    "pickle": (a_pickle, "could run code"),
    "bomb": (a_bomb_in_a_checkpoint, "could run code"),
    "damaged archive": (lambda path, _: path.write_bytes(b"PK\3\4" + bytes(99)), "cannot be read as a checkpoint"),
    "meta": (saved_with(lambda tensor: tensor.to("meta")), f"{FIRST} is on the meta device, .*; save it as a dense"),
    "sparse": (
        saved_with(lambda tensor: tensor.to_sparse()),
        f"{FIRST} is sparse; save it as a dense tensor of float32",
    ),
    "nested": (
        saved_with(lambda tensor: torch.nested.nested_tensor([torch.ones(2, 2), torch.ones(3, 2)])),
        f"{FIRST} is nested; save it as a dense tensor of float32",
    ),
    "unfolded": (
        saved_with(lambda tensor: torch.zeros(1).expand(1 << 40)),
        f"{FIRST} has 4,398,046,511,104 bytes, far more than its encoder",
    ),
    "foreign names": (
        lambda path, encoder: save_file(named("_", encoder), path),
        r"missing there and .*; most names there are not the encoder's, the first is _\S+: choose .*timm's",
    ),
    "no names": (lambda path, encoder: torch.save([1, 2], path), "holds no tensors by name"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_weight_is_one_line(kind, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "gone-off"))
    make, words = WRONG[kind]
    make(tmp_path / "file.pth", encoder)
    with pytest.raises(UserError, match=words) as caught:
        read_weights(tmp_path / "file.pth", encoder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"start.weights {tmp_path / 'file.pth'}: ")
    assert not (tmp_path / "gone-off").exists()


def test_a_file_server_that_is_away_for_a_moment_is_waited_for(encoder, tmp_path, monkeypatch, caplog):
    path = tmp_path / "weights.safetensors"
    save_file(encoder, path)
    away = {"stat": 2, "read_bytes": 2}

    def tried(name):
        real = getattr(Path, name)

        def read(self, **options):
            if self == path and away[name]:
                away[name] -= 1
                raise OSError(errno.EIO, "Input/output error")
            return real(self, **options)

        monkeypatch.setattr(Path, name, read)

    tried("stat")
    tried("read_bytes")
    assert read_weights(path, encoder).prefix == ""
    assert away == {"stat": 0, "read_bytes": 0}
    assert "can be read again" in caplog.text
