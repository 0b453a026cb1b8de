"""manifest.json: what is written is read again, and what cannot be read is said in one line."""

import functools
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.manifest import MASK_DTYPE, ImageStats, Manifest, Masks, Members, Pieces, Shard

FILE = Path("data/manifest.json")


def made(**changes) -> Manifest:
    stats = ImageStats(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), height=(8, 9, 10), width=(11, 12, 13))
    fields = dict(
        name="cats", num_samples=2, num_labeled=1, classes=["a", "ü"], image_stats=stats, index_sha256="f" * 64
    )
    shard = Shard(tar="shard-000000.tar", num_samples=2, bytes=1024, sha256="0" * 64)
    return Manifest(**{**fields, "shards": [shard], **changes})


def paged(**changes) -> Manifest:
    fields = dict(samples=[1, 1], page_rows=1, num_shards=1, longest_name=9, shards_sha256="e" * 64)
    return made(pieces=Pieces(**{**fields, **changes}), shards=[], format="eyespot-shards/2")


BAD = [{"source": "x.png", "reason": "its text is empty"}]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quarantined": [{"source": "x.png", "reason": "truncated"}], "converted": {"cmyk": 3}, "packing": {"seed": 0}},
        {"masks": Masks(num_masks=1, ignored=255, pixels=[3, 0, 4], sha256="e" * 64)},
        {"members": {"depth.png": Members(count=1, sha256="e" * 64), "txt": Members(count=0, sha256="", left_out=BAD)}},
    ],
    ids=["plain", "with notes", "with masks", "with members"],
)
def test_what_is_written_is_read_again(changes):
    manifest = made(**changes)
    text = manifest.to_json()
    assert Manifest.from_json(text.encode(), FILE) == manifest
    assert Manifest.from_json(text.encode(), FILE).to_json() == text
    for name in ("masks", "members"):  # as it was before there were any
        assert (name in json.loads(text)) == (name in changes)


def without(name: str) -> bytes:
    fields = json.loads(made().to_json())
    del fields[name]
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a shard manifest"),
        (b'{"format": "eyespot-shards/1"', "not a shard manifest"),
        (b"\xff\xfe{}", "not a shard manifest"),
        (b"[1, 2]", "not a shard manifest"),
        (made().to_json().encode()[:-40], "not a shard manifest"),
        (without("image_stats"), "not a shard manifest .*image_stats"),
        (without("num_labeled"), "not a shard manifest .*num_labeled"),
        (made().to_json().replace('"bytes"', '"size"').encode(), "not a shard manifest"),
        (b"{}", "format None is not 'eyespot-shards/1' to 'eyespot-shards/4'; pack or index the shards again"),
        (made().to_json().replace("shards/1", "shards/9").encode(), "format 'eyespot-shards/9' is not"),
        (
            made().to_json().replace("shards/1", "shards/2").encode(),
            "with these pieces and bands it is 'eyespot-shards/1'",
        ),
        (
            paged().to_json().replace("shards/2", "shards/1").encode(),
            "with these pieces and bands it is 'eyespot-shards/2'",
        ),
    ],
)
def test_anything_else_is_one_line(content, reason):
    with pytest.raises(UserError, match=reason) as caught:
        Manifest.from_json(content, FILE)
    line = str(caught.value)
    assert line.startswith("data/manifest.json: ") and "\n" not in line
    assert line.endswith(("make it anew: eyespot shards index data", "pack or index the shards again"))


HOSTILE = {
    "shards.0.bytes": ["x", -1, 2**70, 1.5, None, True],
    "shards.0.num_samples": [-1, None, "2", 1.0],
    "shards.0.tar": [
        5,
        None,
        [],
        {},
        "",
        ".",
        "..",
        "../a.tar",
        "/etc/passwd",
        "b/a.tar",
        "a\0.tar",
        "x" * 300,
        "\ud800",
    ],
    "shards.0.sha256": [5, None],
    "shards.0": [None, 3, [], "shard-000000.tar"],
    "shards": [None, {}, "shard-000000.tar", [1]],
    "classes": [None, "abc", [None], [1], {}],
    "image_stats": [None, [], {}],
    "image_stats.mean": [[None] * 3, ["0.1"] * 3, [0.5] * 2, [0.5] * 4, [float("nan")] * 3, [1e9] * 3, [-1] * 3],
    "image_stats.std": [None, [float("inf")] * 3, [-0.1] * 3],
    "image_stats.height": [[1, 2], [1, 2, 70_000], [0, 1, 2], "8", [1.5, 2, 3]],
    "num_labeled": [None, -1, 3, "1"],
    "num_samples": [None, "2", -1, 0, 64.5, True, 10**400, 2**32],
    "quarantined": [None, [1, 2], [{}], [{"source": "a"}], [{"source": "a", "reason": 5}], {}],
    "converted": [None, {"a": "b"}, []],
    "packing": [None, 5, []],
    "name": [5, None, []],
    "index_sha256": [None, 5],
    "masks": [5, {}, [], {"num_masks": 1, "ignored": 255, "pixels": None, "sha256": ""}],
    "masks.pixels": [[-1], [1] * 257, ["1"], None],
    "masks.ignored": [256, -1, None],
    "members": [5, [], {"../txt": {"count": 1, "sha256": ""}}, {"txt": {"count": -1, "sha256": ""}}, {"txt": 3}],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in HOSTILE.items() for value in values])
def test_a_field_of_another_kind_or_out_of_range_is_one_line(field, value):
    fields = json.loads(made(masks=Masks(num_masks=1, ignored=255, pixels=[3], sha256="e" * 64)).to_json())
    *parents, name = (int(part) if part.isdecimal() else part for part in field.split("."))
    place = functools.reduce(lambda place, part: place[part], parents, fields)
    place[name] = value
    with pytest.raises(UserError, match="not a shard manifest") as caught:
        Manifest.from_json(json.dumps(fields).encode(), FILE)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 1000 and str(name) in line.replace("tar ", "0 tar ")
    assert line.endswith("make it anew: eyespot shards index data")


HOSTILE_PIECES = {
    "pieces": [5, [], {}, {"samples": [2]}],
    "pieces.samples": [None, [], [2, 0], [3, -1], [1], [2**63], ["2"], [1.5, 0.5], {}, [[2]]],
    "pieces.page_rows": [0, -1, 2**20 + 1, None, "1", True],
    "pieces.num_shards": [0, -1, 2**32 + 1, None, 1.5],
    "pieces.longest_name": [0, 256, None],
    "pieces.shards_sha256": [None, 5],
    "shards": [[asdict(made().shards[0])]],
    "members": [{"txt": {"count": 1, "sha256": ""}}],
    "masks": [{"num_masks": 1, "ignored": 255, "pixels": [], "sha256": ""}],
    "num_samples": [3, 2**32],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in HOSTILE_PIECES.items() for value in values]
)
def test_pieces_that_cannot_be_are_one_line(field, value):
    fields = json.loads(paged().to_json())
    *parents, name = field.split(".")
    functools.reduce(lambda place, part: place[part], parents, fields)[name] = value
    with pytest.raises(UserError, match="not a shard manifest") as caught:
        Manifest.from_json(json.dumps(fields).encode(), FILE)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 1000 and name in line
    assert line.endswith("make it anew: eyespot shards index data")


def test_pieces_are_written_without_the_list_of_tars():
    manifest = paged(samples=[1, 1])
    assert manifest.pieces is not None and manifest.pieces.num_pages == 2
    manifest.shards = made().shards  # as a shard folder does that has read them
    text = manifest.to_json()
    found = Manifest.from_json(text.encode(), FILE)
    assert found == paged() and found.to_json() == text and json.loads(text)["shards"] == []


def test_a_tar_that_stands_there_twice_is_one_line():
    shards = [Shard(tar=f"{k % 3}.tar", num_samples=1, bytes=1024, sha256="") for k in range(4)]
    fields = json.loads(made().to_json()) | {"shards": [asdict(shard) for shard in shards]}
    with pytest.raises(UserError, match=r"shards: '0\.tar' stands there 2 times"):
        Manifest.from_json(json.dumps(fields).encode(), FILE)


def test_a_field_of_a_later_version_is_left_out():
    fields = json.loads(made().to_json()) | {"colour": "red"}
    assert Manifest.from_json(json.dumps(fields).encode(), FILE) == made()


def test_masks_are_summed_up_without_what_says_nothing():
    rows = np.zeros(3, MASK_DTYPE)
    rows["size"] = [7, 0, 9]
    counts = [0] * 256
    counts[0], counts[2], counts[255] = 5, 6, 70
    found = Masks.of(rows, counts, ignored=255)
    assert (found.num_masks, found.pixels) == (2, [5, 0, 6])
    assert Masks.of(rows, counts, ignored=2).pixels[-1] == 70
