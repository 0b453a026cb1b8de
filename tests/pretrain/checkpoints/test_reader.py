"""Reading checkpoints: what is saved comes back; damage, strangers' files and other recipes are one clear line."""

import errno
import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import eyespot
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.folders import folder_of
from eyespot.pretrain.checkpoints.reader import FORMAT, Meta
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.distributed import process_group


def make_tensors(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {
        "model.encoder.weight": torch.randn(64, 32),
        "model.encoder.bias": torch.randn(64),
        "model.decoder.weight": torch.randn(8, 64),
        "optim.state.encoder.weight.exp_avg": torch.randn(64, 32),
        "optim.state.encoder.weight.step": torch.tensor(float(seed)),
    }


def save(run_dir: Path, step: int, more: dict[str, torch.Tensor] | None = None) -> Path:
    meta = Meta(
        step=step, loader={"samples_consumed": step * 8}, world_size=1, run_key="k", engine="ddp", precision="bf16"
    )
    run_dir.mkdir(exist_ok=True)
    CheckpointWriter(run_dir, keep=2).save(make_tensors(step) | (more or {}), meta, wait=True)
    return folder_of(run_dir, step)


def load(folder: Path, tensors: dict[str, torch.Tensor] | None = None) -> Meta:
    return checkpoint.load(folder, lambda read: read(make_tensors(0) if tensors is None else tensors))


def change_meta(folder: Path, **values: object) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rehash(folder: Path) -> None:
    """What a forger does: the sha256 of whatever stands there."""
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}
    change_meta(folder, files=files)


def test_what_is_saved_comes_back(tmp_path):
    folder = save(tmp_path, 3)
    tensors = {name: torch.zeros_like(tensor) for name, tensor in make_tensors(0).items()}
    meta = load(folder, tensors)
    assert (meta.step, meta.loader, meta.engine, meta.precision) == (3, {"samples_consumed": 24}, "ddp", "bf16")
    assert (meta.eyespot, meta.format) == (eyespot.__version__, FORMAT)
    for name, tensor in make_tensors(3).items():
        assert torch.equal(tensors[name], tensor), name
    encoder = checkpoint.read_encoder(folder)
    assert set(encoder) == {"weight", "bias"}
    assert torch.equal(encoder["weight"], make_tensors(3)["model.encoder.weight"])


def test_nothing_in_it_is_pickled(tmp_path):
    folder = save(tmp_path, 1)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def test_resume_never_auto_and_by_path(tmp_path, monkeypatch):
    def read_all(read):
        read(make_tensors(0))

    assert checkpoint.restore(tmp_path, "auto", read_all) is None
    folder = save(tmp_path, 2)
    save(tmp_path, 5)
    assert checkpoint.restore(tmp_path, "never", read_all) is None
    assert checkpoint.restore(tmp_path, "auto", read_all).step == 5
    assert checkpoint.restore(tmp_path / "other", str(folder), read_all).step == 2
    assert checkpoint.restore(tmp_path, str(folder), read_all).step == 2
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert checkpoint.restore(tmp_path / "other", str(folder), read_all).step == 2
    assert checkpoint.restore(tmp_path, str(folder), read_all).step == 5, "a branch goes on in itself"


def test_a_flipped_bit_is_named(tmp_path):
    folder = save(tmp_path, 1)
    path = next(folder.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{path.name} is damaged"):
        load(folder)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.read_encoder(folder)


DAMAGE = {
    "truncated": lambda folder, file: os.truncate(file, 100),
    "removed": lambda folder, file: file.unlink(),
    "a folder": lambda folder, file: (file.unlink(), file.mkdir()),
    "one too many": lambda folder, file: (folder / "more.safetensors").write_bytes(file.read_bytes()),
    "meta cut": lambda folder, file: (folder / "meta.json").write_text("{"),
    "meta is a list": lambda folder, file: (folder / "meta.json").write_text("[1]"),
    "meta is deep": lambda folder, file: (folder / "meta.json").write_text("[" * 100_000),
    "meta is binary": lambda folder, file: (folder / "meta.json").write_bytes(b"\xff\xfe\x00"),
    "meta is gone": lambda folder, file: (folder / "meta.json").unlink(),
    "meta lacks a field": lambda folder, file: (folder / "meta.json").write_text('{"step": 1}'),
    "meta is a pipe": lambda folder, file: ((folder / "meta.json").unlink(), os.mkfifo(folder / "meta.json")),
    "meta is endless": lambda folder, file: (
        (folder / "meta.json").unlink(),
        (folder / "meta.json").symlink_to("/dev/zero"),
    ),
    "loader in words": lambda folder, file: change_meta(folder, loader={"samples_consumed": "many"}),
    "loader of 10^30": lambda folder, file: change_meta(folder, loader={"samples_consumed": 10**30}),
    "step below 0": lambda folder, file: change_meta(folder, step=-1),
    "step is true": lambda folder, file: change_meta(folder, step=True),
    "a pipe": lambda folder, file: (file.unlink(), os.mkfifo(file)),
    "endless": lambda folder, file: (file.unlink(), file.symlink_to("/dev/zero")),
    "step is text": lambda folder, file: change_meta(folder, step="7"),
    "files is a list": lambda folder, file: change_meta(folder, files=[file.name]),
    "files outside": lambda folder, file: change_meta(folder, files={"../../../etc/passwd": "0"}),
    "no files": lambda folder, file: (file.unlink(), change_meta(folder, files={})),
    "header is not one": lambda folder, file: (file.write_bytes(b"\xff" * 64), rehash(folder)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_and_changes_nothing(tmp_path, damage):
    folder = save(tmp_path, 1)
    DAMAGE[damage](folder, next(folder.glob("*.safetensors")))
    tensors = make_tensors(0)
    with pytest.raises(UserError) as caught:
        load(folder, tensors)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in make_tensors(0).items())
    with pytest.raises(UserError):
        checkpoint.read_encoder(folder)


@pytest.mark.parametrize(
    "info", ["{", "[]", "{}", "7", "null", '{"a": 1}', json.dumps({"model.a": {"saved_offsets": "xyz"}}), "[" * 100_000]
)
def test_senseless_headers_are_one_line(tmp_path, info):
    folder = save(tmp_path, 1)
    file = next(folder.glob("*.safetensors"))
    save_file(load_file(file), file, metadata={"DCP_SHARDING_INFO": info, "format": "pt"})
    rehash(folder)
    if info in ("[]", "{}", "null", "7"):  # as good as none, or senseless: either is no reason to run anything
        try:
            load(folder)
        except UserError as error:
            assert "\n" not in str(error)
        return
    with pytest.raises(UserError, match="damaged headers") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_newer_format_is_refused_by_name(tmp_path):
    folder = save(tmp_path, 1)
    change_meta(folder, format=FORMAT + 1, eyespot="9.1", field_of_the_future=1)
    with pytest.raises(UserError, match=r"format 2, written by eyespot 9\.1; this is eyespot"):
        load(folder)


def test_a_header_that_claims_more_than_the_file_has(tmp_path):
    """Before memory is taken for it."""
    folder = save(tmp_path, 1)
    file = next(folder.glob("*.safetensors"))
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["model.encoder.weight"]["shape"] = [2**20, 2**20]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    rehash(folder)
    with pytest.raises(UserError, match="damaged headers"):
        checkpoint.read_encoder(folder)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_a_file_server_that_is_away_is_no_damage(tmp_path, monkeypatch, number):
    folder = save(tmp_path, 1)

    def refuse(path, inside=None):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(checkpoint, "open_plain", refuse)
    with pytest.raises(Outage, match=f"cannot be read .{os.strerror(number)}"):
        load(folder)
    monkeypatch.setattr(checkpoint.foreign_json, "open_plain", refuse)
    with pytest.raises(Outage, match=r"meta\.json cannot be read"):
        checkpoint.read_meta(folder)


def test_a_newer_versions_field_of_the_same_format_is_left_alone(tmp_path):
    folder = save(tmp_path, 1)
    change_meta(folder, colour="red")
    assert load(folder).step == 1


def test_an_older_meta_is_read(tmp_path):
    folder = save(tmp_path, 1)
    values = json.loads((folder / "meta.json").read_text())
    kept = {name: values[name] for name in ("step", "loader", "world_size", "run_key", "files")}
    (folder / "meta.json").write_text(json.dumps(kept))
    assert load(folder).step == 1


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self):
        return Path.touch, (self._trace,)


PICKLES = (".metadata", "__0_0.distcp", "model.pt", "optimizer.bin", "rank_0.pt", "meta.pkl", "rank-00000.pth")


def test_nothing_of_a_hostile_folder_is_run(tmp_path):
    trace = tmp_path / "it ran"
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists(), "the bomb works"
    trace.unlink()
    folder = save(tmp_path, 1)
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(Bomb(trace)))
    assert load(folder).step == 1  # beside good files they are never opened
    file = next(folder.glob("*.safetensors"))
    for hostile in (pickle.dumps(Bomb(trace)), file.read_bytes()[:300] + pickle.dumps(Bomb(trace))):
        file.write_bytes(hostile)
        rehash(folder)
        with pytest.raises(UserError, match="damaged headers"):
            load(folder)
    torch.save(Bomb(trace), file)
    (folder / "meta.json").write_bytes(pickle.dumps(Bomb(trace)))
    for read in (load, checkpoint.read_encoder, checkpoint.read_meta):
        with pytest.raises(UserError, match=r"damaged meta\.json"):
            read(folder)
    assert not trace.exists()


def test_a_missing_shard_is_no_hole(tmp_path):
    """The hashes fit, but a part of a tensor is in no file: loading it would leave zeros, unsaid."""
    folder = save(tmp_path, 1)
    file = next(folder.glob("*.safetensors"))
    tensors = {"model.a": torch.ones(4)}
    save_file(tensors, file, metadata={"DCP_SHARDING_INFO": json.dumps({"model.a": {"saved_offsets": [4]}})})
    rehash(folder)
    with pytest.raises(UserError, match=r"only a part of model\.a"):
        load(folder, {"model.a": torch.zeros(8)})


OTHERS = [
    ({"model.encoder.weight": torch.zeros(64, 33)}, r"weight is \(64, 32\) float32, this run's is \(64, 33\) float32;"),
    ({"model.encoder.bias": torch.zeros(64).bfloat16()}, r"is \(64,\) float32, this run's is \(64,\) bfloat16;"),
    (
        {"optim.state.encoder.fc.lora_b.step": torch.zeros(3)},
        r"has no tensor .*; it was written with another .*lora-rank",
    ),
    ({"model.queue": torch.zeros(3)}, r"has no tensor model\.queue; it was written by another recipe"),
    ({"optim.state.encoder.weight.mu": torch.zeros(3)}, r"has no tensor .*\.mu; it was written with another optimiser"),
]


@pytest.mark.parametrize(("others", "message"), OTHERS)
def test_another_runs_checkpoint_is_refused_before_anything_changes(tmp_path, others, message):
    folder, asked = save(tmp_path, 1), {**make_tensors(0), **others}
    before = {name: tensor.clone() for name, tensor in asked.items()}
    with pytest.raises(UserError, match=message):
        load(folder, asked)
    assert all(torch.equal(asked[name], tensor) for name, tensor in before.items())


def test_low_rank_steps_are_the_reason_also_where_another_tensor_is_missing(tmp_path):
    folder = save(tmp_path, 1, {"model.encoder.lora_a": torch.zeros(1, 32)})
    asked = {"optim.state.encoder.bias.mu": torch.zeros(64), **make_tensors(0)}
    with pytest.raises(UserError, match=r"has no tensor .*bias\.mu; it was written with another --start.lora-rank"):
        load(folder, asked)


def test_what_the_run_has_no_place_for_is_refused(tmp_path):
    folder, asked = save(tmp_path, 1), make_tensors(0)
    step = asked.pop("optim.state.encoder.weight.step")
    with pytest.raises(UserError, match=r"holds optim.*step, which this run does not have; .* another optimiser"):
        load(folder, asked)
    asked["optim.state.encoder.weight.step"] = step
    del asked["model.decoder.weight"]
    with pytest.raises(UserError, match=r"holds model\.decoder\.weight, which this run does not have; .* recipe"):
        load(folder, asked)


def refusals(world: process_group.World, folder: Path, damaged: Path) -> list[str]:
    """What each rank says where one of them alone meets something wrong, and whether its tensors were left alone."""
    said = []
    odd = {"model.queue": torch.zeros(3)} if world.rank == 1 else {}
    for path, tensors in ((folder, {**make_tensors(0), **odd}), (damaged, make_tensors(0))):
        with pytest.raises(UserError) as caught:
            load(path, tensors)
        said.append(str(caught.value))
        assert all(torch.equal(tensors[name], tensor) for name, tensor in make_tensors(0).items())
    return said


def test_ranks_agree_on_what_one_of_them_finds(on_ranks, tmp_path):
    folder, damaged = save(tmp_path / "one", 1), save(tmp_path / "two", 1)
    file = next(damaged.glob("*.safetensors"))
    (damaged / "a.safetensors").write_bytes(file.read_bytes())  # so that rank 1 has a file to look at
    rehash(damaged)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    one, other = on_ranks(refusals, 2, folder, damaged)
    assert one == other
    assert "has no tensor model.queue" in one[0]
    assert f"{file.name} is damaged" in one[1]
