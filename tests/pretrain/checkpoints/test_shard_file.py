"""A rank's share: who writes what, and that the file is the one torch's own writer would have made."""

import json
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from eyespot.pretrain.checkpoints.shard_file import Piece, RankShard, deal, pieces


def piece(name: str, rows: int, offset: int = 0) -> Piece:
    return Piece(name=name, offsets=(offset,), shape=(rows,), dtype=torch.float32)


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "model.flags": torch.tensor([True, False, True]),
        "model.count": torch.tensor(3),
        "model.half": torch.randn(7).bfloat16(),
        "model.none": torch.empty(0, 3),
        "model.images": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "model.cut": torch.randn(6, 4)[1::2],
        "optim.state.w.step": torch.tensor(2.0),
    }


def test_each_piece_is_written_once_and_the_load_is_even():
    whole = [piece("a", 100), piece("b", 60), piece("c", 50)]
    dealt = deal([[*whole, piece("d", 5, 0)], [*whole, piece("d", 5, 5)], [*whole, piece("only", 7)]])
    assert sorted(p.name for own in dealt for p in own) == ["a", "b", "c", "d", "d", "only"]
    assert piece("only", 7) in dealt[2]
    assert piece("d", 5, 0) in dealt[0]
    assert piece("d", 5, 5) in dealt[1]
    assert [sum(p.shape[0] for p in own if p in whole) for own in dealt] == [100, 60, 50]


def test_dealing_does_not_depend_on_the_order_of_names():
    whole = [piece(name, 10) for name in "abcdef"]
    assert deal([whole, whole]) == deal([whole[::-1], whole])


def test_the_file_is_what_torchs_own_writer_makes(tmp_path):
    shard = RankShard(state())
    shard.copy(state())
    shard.write(tmp_path)
    with warnings.catch_warnings(action="ignore"):
        writer = HuggingFaceStorageWriter(str(tmp_path / "torch"), save_distributed=True)
        packed = {name: tensor.contiguous() for name, tensor in state().items()}  # it takes no others
        dcp.save(packed, storage_writer=writer, no_dist=True)
    ours, theirs = next(tmp_path.glob("*.safetensors")), next((tmp_path / "torch").glob("*.safetensors"))
    with safe_open(ours, "pt") as one, safe_open(theirs, "pt") as two:
        infos = [json.loads(file.metadata().pop("DCP_SHARDING_INFO")) for file in (one, two)]
        assert infos[0] == infos[1]
        rest = [{k: v for k, v in file.metadata().items() if k != "DCP_SHARDING_INFO"} for file in (one, two)]
        assert rest[0] == rest[1]
        for name in state():
            assert torch.equal(one.get_tensor(name), two.get_tensor(name)), name
            assert one.get_tensor(name).dtype == two.get_tensor(name).dtype


def test_torchs_own_reader_reads_it(tmp_path):
    shard = RankShard(state())
    shard.copy(state())
    shard.write(tmp_path)
    got = {name: torch.zeros_like(tensor) for name, tensor in state().items()}
    with warnings.catch_warnings(action="ignore"):
        dcp.load(got, storage_reader=HuggingFaceStorageReader(str(tmp_path)), no_dist=True)
    for name, tensor in state().items():
        assert torch.equal(got[name], tensor), name


def test_a_copy_is_a_copy_and_its_memory_is_used_again(tmp_path):
    tensors = state()
    shard = RankShard(tensors)
    shard.copy(tensors)
    (tmp_path / "one").mkdir()
    for tensor in tensors.values():
        tensor.zero_()
    first = shard.write(tmp_path)
    shard.copy(tensors)
    assert shard.write(tmp_path / "one") != first
    with safe_open(next(tmp_path.glob("*.safetensors")), "pt") as file:
        assert torch.equal(file.get_tensor("model.cut"), state()["model.cut"])


def test_it_fits_only_the_state_it_was_made_for():
    shard = RankShard(state())
    assert shard.fits(state())
    assert not shard.fits({**state(), "model.more": torch.zeros(1)})
    assert not shard.fits({**state(), "model.half": torch.zeros(7)})


def test_a_type_that_safetensors_lacks_is_named(tmp_path):
    tensors = {"model.c": torch.zeros(2, dtype=torch.complex64)}
    shard = RankShard(tensors)
    shard.copy(tensors)
    with pytest.raises(TypeError, match=r"model\.c: torch.complex64"):
        shard.write(tmp_path)


def test_what_one_process_holds():
    assert pieces({"a": torch.zeros(2, 3)}) == [Piece(name="a", offsets=(0, 0), shape=(2, 3), dtype=torch.float32)]
