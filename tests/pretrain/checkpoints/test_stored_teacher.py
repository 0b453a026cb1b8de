"""A run's teacher comes back to the bit, or one line says why not."""

import os

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints.stored_teacher import FILE, read_teacher, write_teacher


@pytest.fixture
def teacher():
    return {"weight": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), "count": torch.tensor(3)}


def test_it_comes_back_to_the_bit_and_is_the_same_file_every_time(tmp_path, teacher):
    sha256 = write_teacher(tmp_path, teacher)
    found = read_teacher(tmp_path, teacher, sha256)
    assert found.keys() == teacher.keys() and all(torch.equal(found[name], teacher[name]) for name in teacher)
    assert write_teacher(tmp_path, found) == sha256


def test_another_one_is_refused(tmp_path, teacher):
    sha256 = write_teacher(tmp_path, teacher)
    other = write_teacher(tmp_path, {**teacher, "count": torch.tensor(4)})
    with pytest.raises(UserError, match=f"{FILE}: has sha256 {other[:12]}.*the run began with {sha256[:12]}"):
        read_teacher(tmp_path, teacher, sha256)


def test_a_missing_one_is_refused(tmp_path, teacher):
    with pytest.raises(UserError, match=rf"{FILE}: cannot be read .*put the file back \(sha256 {'0' * 12}"):
        read_teacher(tmp_path, teacher, "0" * 64)


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path, teacher):
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(UserError, match=rf"{FILE}: cannot be read \(not a plain file\)"):
        read_teacher(tmp_path, teacher, "0" * 64)


def test_one_of_another_encoder_is_refused(tmp_path, teacher):
    sha256 = write_teacher(tmp_path, teacher)
    with pytest.raises(UserError, match=r"weight is \(3, 2\) there and \(4, 2\) in the encoder"):
        read_teacher(tmp_path, {**teacher, "weight": torch.zeros(4, 2)}, sha256)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, teacher):
    with pytest.raises(UserError, match="cannot be written"):
        write_teacher(tmp_path / "nowhere", teacher)
