"""The shard folders of a mixture as one: each keeps its samples, tars, labels, tables and splits apart."""

import hashlib
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from in_pieces import in_pieces

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.loading.mixtures.mixed_shards import MixedShards, find_shards
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def mixed(text: str) -> MixedShards:
    found = find_shards(text)
    assert isinstance(found, MixedShards)
    return found


@pytest.fixture
def mixture(digit_shards, photo_shards) -> MixedShards:
    return mixed(f"{digit_shards}:0.7,{photo_shards}:0.3")


@pytest.fixture
def sources(digit_shards, photo_shards) -> list[ShardFolder]:
    return [ShardFolder(digit_shards), ShardFolder(photo_shards)]


def test_a_sample_is_read_from_its_source(mixture, sources):
    first, second = (source.manifest.num_samples for source in sources)
    assert mixture.bounds.tolist() == [0, first, first + second] and mixture.manifest.num_samples == first + second
    asked = np.array([first + 7, 3, first - 1, first, first + second - 1])
    reader = Reader(mixture, substitute=False)
    _, files = reader.start(asked).result()
    for number, (sample, file) in enumerate(zip(asked.tolist(), files, strict=True)):
        own = Reader(sources[sample >= first], substitute=False)
        _, (expected,) = own.start(np.array([sample - first * (sample >= first)])).result()
        assert file == expected, number
        own.close()
    reader.close()
    assert mixture.tar_path(len(sources[0].manifest.shards)) == sources[1].tar_path(0)


def test_labels_and_classes_are_kept_apart(mixture, sources):
    digits, photos = sources
    first, num_classes = digits.manifest.num_samples, len(digits.manifest.classes)
    assert mixture.manifest.classes == [
        *(f"{mixture.names[0]}/{name}" for name in digits.manifest.classes),
        *(f"{mixture.names[1]}/{name}" for name in photos.manifest.classes),
    ]
    assert (mixture.index["label"][:first] == digits.index["label"]).all()
    assert (mixture.index["label"][first:] == photos.index["label"] + num_classes).all()
    for name in ("offset", "size", "crc32", "height", "width"):
        assert (mixture.index[name] == np.concatenate([digits.index[name], photos.index[name]])).all()


def test_samples_without_a_label_have_none_in_the_mixture(digit_shards, photo_shards, tmp_path):
    unlabeled = Path(shutil.copytree(photo_shards, tmp_path / "unlabeled"))
    index = np.load(unlabeled / "index.npy")
    index["label"][::2] = -1
    np.save(unlabeled / "index.npy", index)
    told = json.loads((unlabeled / "manifest.json").read_text())
    digest = hashlib.sha256((unlabeled / "index.npy").read_bytes()).hexdigest()
    (unlabeled / "manifest.json").write_text(json.dumps({**told, "index_sha256": digest}))
    found = mixed(f"{digit_shards}:1,{unlabeled}:1")
    own = found.index["label"][found.bounds[1] :]
    assert (own[::2] == -1).all() and (own[1::2] >= 10).all()


def test_which_data_it_is_depends_on_all_that_is_mixed(digit_shards, photo_shards, tmp_path):
    digest = mixed(f"{digit_shards}:0.7,{photo_shards}:0.3").manifest_sha256
    assert mixed(f"{digit_shards}:0.70,{photo_shards}:0.3").manifest_sha256 == digest
    moved = Path(shutil.copytree(photo_shards, tmp_path / "new" / Path(photo_shards).name))
    assert mixed(f"{digit_shards}:0.7,{moved}:0.3").manifest_sha256 == digest
    assert mixed(f"{digit_shards}:0.6,{photo_shards}:0.4").manifest_sha256 != digest
    assert mixed(f"{photo_shards}:0.3,{digit_shards}:0.7").manifest_sha256 != digest
    (moved / "manifest.json").write_text(json.dumps(json.loads((moved / "manifest.json").read_text()), indent=3))
    assert mixed(f"{digit_shards}:0.7,{moved}:0.3").manifest_sha256 != digest


def test_repeats_are_passes_of_what_the_cap_leaves(digit_shards, photo_shards, tmp_path):
    path = tmp_path / "mix.toml"
    path.write_text(
        f'[sources.a]\nshards = "{digit_shards}"\nrepeats = 1\ncap = 400\n'
        f'[sources.b]\nshards = "{photo_shards}"\nrepeats = 4\n'
    )
    found = mixed(str(path))
    assert found.turns([400, 301]) == (100, 301)
    assert found.shares == pytest.approx([400 / 1604, 1204 / 1604])
    chosen = found.chosen(None)
    assert found.per_source(chosen).tolist() == [400, 301]
    assert found.per_source(found.chosen(chosen)).tolist() == [400, 301]  # as often as one likes


def test_ids_are_those_of_the_mixture(mixture):
    asked = np.array([1440, 5, 1438, 2])
    assert mixture.chosen(asked).tolist() == [5, 2, 1440, 1438]
    assert [own.tolist() for _, own in mixture.apart(mixture.chosen(asked))] == [[5, 2], [2, 0]]
    with pytest.raises(UserError, match=rf"data\.ids: name no sample of {mixture.names[0]}, whose ids .* 0 to 1437"):
        mixture.chosen(np.array([1438, 1500]))


def test_a_folder_is_named_once(digit_shards, photo_shards, tmp_path):
    (tmp_path / "link").symlink_to(digit_shards)
    for other in (digit_shards, tmp_path / "link", digit_shards.parent):
        with pytest.raises(UserError, match="are the same folder") as caught:
            find_shards(f"{digit_shards}:0.5,{photo_shards}:0.2,{other}:0.3")
        assert "\n" not in str(caught.value)


def test_a_source_that_is_not_there_is_named(digit_shards, tmp_path):
    with pytest.raises(UserError, match=f"shards {tmp_path}/gone: no such folder"):
        find_shards(f"{digit_shards}:0.5,{tmp_path}/gone:0.5")
    (tmp_path / "mix.toml").write_text('[sources.a]\nshards = "other.toml"\nweight = 1')
    with pytest.raises(UserError, match="a is a mixture itself; name its sources in this one"):
        find_shards(str(tmp_path / "mix.toml"))


def test_a_damaged_tar_of_any_source_is_found(digit_shards, photo_shards, tmp_path):
    short = Path(shutil.copytree(photo_shards, tmp_path / "short"))
    tar = sorted(short.glob("*.tar"))[1]
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(UserError, match=rf"{tar.name}: has \d+ bytes where the manifest says"):
        find_shards(f"{digit_shards}:1,{short}:1").check()


def test_what_is_held_out_of_each_source_keeps_its_labels(digit_shards, photo_shards, caplog):
    digits = digit_shards.parent
    found = mixed(f"{photo_shards}:1,{digits}:1")
    with caplog.at_level(logging.WARNING, "eyespot"):
        held_out = found.split("test")
    assert f"{found.names[0]}: no split test; it is that of the others" in caplog.text
    own = ShardFolder(digits / "test")
    assert held_out.manifest.classes == found.manifest.classes
    assert (held_out.index["label"] == own.index["label"] + len(ShardFolder(photo_shards).manifest.classes)).all()
    assert held_out.path != found.path and found.split("test") is held_out
    assert found.split("val") is None and mixed(f"{photo_shards}:1,{digit_shards}:1").split("test") is None


def test_a_held_out_split_of_other_classes_is_refused(digit_shards, photo_shards, tmp_path):
    copy = Path(shutil.copytree(digit_shards.parent, tmp_path / "digits"))
    path = copy / "test" / "manifest.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "classes": told["classes"][::-1]}))
    with pytest.raises(UserError, match="test of digits has other classes than what is learned from"):
        mixed(f"{copy}:1,{photo_shards}:1").split("test")


def test_masks_and_members_need_all_sources(packed, digit_shards, tmp_path):
    found = mixed(f"{packed}:1,{digit_shards}:1")
    assert found.manifest.masks is None and not found.manifest.members
    with pytest.raises(UserError, match="source train has no segmentation masks; leave it out"):
        _ = found.masks
    with pytest.raises(UserError, match=r"source shards has no \.txt beside its images; leave it out"):
        found.member("txt")
    with pytest.raises(UserError, match="source shards has no frames, each of its samples is one image"):
        _ = found.frames
    both = mixed(f"{packed}:1,{shutil.copytree(packed, tmp_path / 'again')}:3")
    own = ShardFolder(packed)
    assert (both.masks == np.concatenate([own.masks, own.masks])).all()
    assert both.manifest.masks.num_masks == 2 * own.manifest.masks.num_masks
    assert both.manifest.masks.pixels == [2 * count for count in own.manifest.masks.pixels]
    other = tmp_path / "other"
    shutil.copytree(packed, other)
    told = json.loads((other / "manifest.json").read_text())
    told["masks"]["ignored"] = 17
    (other / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="the masks of its sources ignore the values 17 and 255"):
        _ = mixed(f"{packed}:1,{other}:1").masks


def test_clips_of_two_sources(film_shards, tmp_path):
    again = Path(shutil.copytree(film_shards, tmp_path / "again"))
    found, own = mixed(f"{film_shards}:1,{again}:1"), ShardFolder(film_shards)
    count, tars = own.manifest.frames.num_frames, len(own.manifest.shards)
    assert found.manifest.frames.num_frames == 2 * count == len(found.frames)
    assert (found.frames["offset"] == np.tile(own.frames["offset"], 2)).all()
    assert (found.frames["tar"][count:] == own.frames["tar"] + tars).all()
    assert (found.clips["first"][len(own.clips) :] == own.clips["first"] + count).all()
    assert (found.frames[found.clips["first"][:, 0].astype(np.int64)] == found.index).all()
    assert (found.motion == np.tile(own.motion, 2)).all() and len(found.frame_masks) == 2 * count


def test_sources_in_pieces_are_asked_for_rows(digit_shards, photo_shards, tmp_path):
    """The rows of a mixture of whole indexes, none of which is read whole."""
    pieces = [in_pieces(shards, tmp_path / shards.name) for shards in (digit_shards, photo_shards)]
    whole, paged = (mixed(f"{one}:0.7,{other}:0.3") for one, other in ((digit_shards, photo_shards), pieces))
    count = whole.manifest.num_samples
    ids = np.array([[0, count - 1, 7], [int(whole.bounds[1]), int(whole.bounds[1]) - 1, 7]])
    assert (paged.rows(ids) == whole.index[ids]).all() and paged.table[5] == whole.index[5]
    assert (np.concatenate(list(paged.row_parts())) == whole.index).all() and len(paged.table) == count
    with pytest.raises(IndexError, match=f"of {count}"):
        paged.rows(np.array([count]))
    assert list(paged.manifest.shards) == list(whole.manifest.shards)
    assert not any("index" in vars(shards) for shards in (paged, *paged.sources))
    reader = Reader(paged, substitute=False)
    assert reader.start(np.array([3, count - 1])).result()[0].tolist() == [3, count - 1]
    reader.close()


def test_a_name_with_a_nul_byte_is_refused():
    for text in ("a\0", "a\0:0.5,b:0.5"):
        with pytest.raises(UserError, match="has a NUL byte"):
            find_shards(text)


def test_an_address_in_a_file_may_have_commas_and_colons(tmp_path):
    (tmp_path / "mix.toml").write_text('[sources.a]\nshards = "http://127.0.0.1:9/a,b:7"\nweight = 1\n')
    with pytest.raises(Outage, match="a,b:7"):
        find_shards(str(tmp_path / "mix.toml"), patience_seconds=0.0)
