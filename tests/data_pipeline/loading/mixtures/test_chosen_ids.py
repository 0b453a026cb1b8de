"""A file of ids is taken with the shards that its ids are of, and with no others."""

import hashlib
import json
import shutil

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.chosen_ids import read_ids
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards

NAMED = "data.ids ids.txt"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "names no samples; write different ids from 0 to 1437"),
        (b"0\n1438\n", "names 1438, and the samples of .* are 0 to 1437; name these"),
        (b"-1", "names -1, and the samples"),
        (b"1 2 2", "must name different samples, and names 2 twice; leave one out"),
        (b"1.5", "cannot be read as one id a line"),
        (b"9" * 30, "cannot be read as one id a line"),
        (b"\xff\xfe", "cannot be read as one id a line"),
    ],
)
def test_wrong_ids_are_one_line(digits, tmp_path, content, said):
    (tmp_path / "ids.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"^{NAMED}: {said}") as caught:
        read_ids(NAMED, tmp_path / "ids.txt", find_shards(digits))
    assert "\n" not in str(caught.value)


def test_their_order_is_kept_and_notepads_mark_is_no_id(digits, tmp_path):
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf7\r\n3\r\n")
    assert read_ids(NAMED, tmp_path / "ids.txt", find_shards(digits)).tolist() == [7, 3]


def test_ids_that_were_chosen_from_other_shards_are_refused(digits, tmp_path):
    train, test = find_shards(digits), find_shards(digits, "test")
    ids, note = tmp_path / "ids.txt", tmp_path / "provenance.json"
    ids.write_text("5\n9\n")

    def chosen_from(shards, **changes):
        known = {"path": "x", "manifest_sha256": shards.manifest_sha256, "index_sha256": shards.manifest.index_sha256}
        told = {"shards": known | changes, "ids_sha256": hashlib.sha256(ids.read_bytes()).hexdigest()}
        note.write_text(json.dumps(told))

    chosen_from(train)
    shutil.copytree(digits, tmp_path / "copy")
    for same in (train, find_shards(tmp_path / "copy"), find_shards(f"{digits}:1")):
        assert len(read_ids(NAMED, ids, same)) == 2
    for other in (test, find_shards(f"{digits / 'test'}:1,{digits / 'train'}:1")):
        with pytest.raises(UserError, match=rf"^{NAMED}: was chosen from other shards \(x, says its provenance.json\)"):
            read_ids(NAMED, ids, other)
    chosen_from(train, manifest_sha256="0" * 64)  # written anew, over the same images
    assert len(read_ids(NAMED, ids, train)) == 2
    chosen_from(test)
    ids.write_text("5\n")  # somebody's own, which the note does not speak of
    assert len(read_ids(NAMED, ids, train)) == 1
    mine = hashlib.sha256(ids.read_bytes()).hexdigest()
    for odd in ("[]", "{", '{"shards": 5}', json.dumps({"shards": 5, "ids_sha256": mine})):
        note.write_text(odd)
        assert len(read_ids(NAMED, ids, train)) == 1


def test_images_that_were_added_since_change_no_id(digits, tmp_path):
    shutil.copytree(digits / "test", tmp_path / "more")
    before = find_shards(tmp_path / "more").manifest_sha256
    manifest = json.loads((tmp_path / "more" / "manifest.json").read_text())
    manifest["packing"]["added"] = [{"base": before}, 7]
    (tmp_path / "more" / "manifest.json").write_text(json.dumps(manifest))
    ids = tmp_path / "ids.txt"
    ids.write_text("5\n")
    for known, good in ((before, True), ("0" * 64, False)):
        told = {"shards": {"manifest_sha256": known}, "ids_sha256": hashlib.sha256(b"5\n").hexdigest()}
        (tmp_path / "provenance.json").write_text(json.dumps(told))
        if good:
            assert read_ids(NAMED, ids, find_shards(tmp_path / "more")).tolist() == [5]
        else:
            with pytest.raises(UserError, match="was chosen from other shards"):
                read_ids(NAMED, ids, find_shards(tmp_path / "more"))
