"""What is missing or of another size is one line; names are listed at once."""

import re

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import Patience
from eyespot.data_pipeline.shards.paged.file_sizes import (
    MissingShards,
    check_piece_sizes,
    check_tar_names,
    check_tar_sizes,
)
from eyespot.data_pipeline.stores.open_store import open_store

PATIENCE = Patience(0.0)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"123")
    (tmp_path / "b.tar").write_bytes(b"")
    (tmp_path / "folder.tar").mkdir()
    return tmp_path, open_store(tmp_path)


def test_tars(place):
    check_tar_sizes(*place, [("a.tar", 3), ("b.tar", 0)], PATIENCE)
    with pytest.raises(UserError, match=re.escape("a.tar: has 3 bytes where the manifest says 4; copy it again")):
        check_tar_sizes(*place, [("b.tar", 0), ("a.tar", 4)], PATIENCE)
    for name in ("c.tar", "folder.tar"):
        with pytest.raises(MissingShards, match=f"{name}: is missing; copy it again"):
            check_tar_sizes(*place, [("a.tar", 3), (name, 3)], PATIENCE)


def test_names(place):
    check_tar_names(*place, ["a.tar", "b.tar"], PATIENCE)
    with pytest.raises(MissingShards, match=r"c\.tar: is missing, and 1 more tars; copy"):
        check_tar_names(*place, ["a.tar", "c.tar", "d.tar"], PATIENCE)


@pytest.mark.parametrize(
    ("name", "least", "words"),
    [
        ("a.tar", 3, "has 3 bytes where its rows take 3"),
        ("a.tar", 0, "has 3 bytes where its rows take 0"),
        ("c", 1, "is missing"),
    ],
)
def test_pieces_hold_their_rows_and_a_header(place, name, least, words):
    check_piece_sizes(*place, [("a.tar", 2, 3)], PATIENCE)
    with pytest.raises(UserError, match=f"{name}: {words}; copy it again, or: eyespot shards index"):
        check_piece_sizes(*place, [(name, least, least + 2)], PATIENCE)
