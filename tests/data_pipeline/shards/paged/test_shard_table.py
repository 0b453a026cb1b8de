"""shards.npy: the same tars as the manifest's list, and what cannot be is one line."""

import numpy as np
import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.manifest import Shard
from eyespot.data_pipeline.shards.paged.shard_table import ShardTable, shard_dtype, total_bytes

SHARDS = [
    Shard(tar=name, num_samples=number, bytes=2**40 + number, sha256=f"{number:064x}")
    for number, name in enumerate(["shard-000000.tar", "ü.tar", "a b.tar"])
]


def test_it_is_the_list_of_tars():
    table = ShardTable.of(SHARDS)
    assert list(table) == SHARDS and len(table) == 3 and table[1] == SHARDS[1] and table[-1] == SHARDS[-1]
    assert table[1:] == SHARDS[1:] and table.names == [shard.tar for shard in SHARDS]
    assert total_bytes(table) == total_bytes(SHARDS) == 3 * 2**40 + 3
    assert table.bytes.tolist() == [shard.bytes for shard in SHARDS] and table.longest_name == 16
    assert ShardTable.of(table) is table and not ShardTable.of([])
    with pytest.raises(IndexError):
        table[3]


def rows(*names: bytes, **columns: int) -> np.ndarray:
    found = np.zeros(len(names), shard_dtype(20))
    found["tar"] = names
    for name, value in columns.items():
        found[name] = value
    return found


@pytest.mark.parametrize("name", [b"", b".", b"..", b"../a.tar", b"/etc/passwd", b"b/a.tar", b"a\0.tar", b"\xff.tar"])
def test_a_name_that_is_none_of_a_file_beside_it_is_one_line(name):
    with pytest.raises(UserError, match="of shard 1: must be the name of a file in this folder") as caught:
        ShardTable(rows(b"0.tar", name))
    assert "\n" not in str(caught.value)


def test_names_that_stand_there_twice_and_numbers_too_large_are_one_line():
    with pytest.raises(UserError, match=r"tar 'a\.tar' stands there 2 times"):
        ShardTable(rows(b"a.tar", b"b.tar", b"a.tar"))
    for column in ("num_samples", "bytes"):
        with pytest.raises(UserError, match=f"{column} 9223372036854775808: must be below"):
            ShardTable(rows(b"a.tar", **{column: 2**63}))


def test_a_digest_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"a\.tar: sha256 'x' is none"):
        ShardTable.of([Shard(tar="a.tar", num_samples=1, bytes=1, sha256="x")])
