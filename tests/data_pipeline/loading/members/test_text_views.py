"""Captions through the loader: a pure function of (seed, epoch, sample), on any ranks, in any batch, after a resume."""

from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from captioned import captions, make_captioned
from streams import global_stream, take

from eyespot.data_pipeline.augment.views import CenterView, MaskView, RandomView, TextView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader, make_pass, make_selection
from eyespot.data_pipeline.loading.members.text_views import caption_numbers, read_captions, see_texts
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.data_pipeline.shards.manifest import Manifest
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

CONTEXT = 24
VIEWS = (
    RandomView(size=16),
    TextView(context=CONTEXT),
    TextView(context=9, line="first"),
    RandomView(size=12, partner=True),
    TextView(context=CONTEXT, partner=True),
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_captioned(tmp_path_factory.mktemp("captioned") / "shards")


def spec(shards: Path | ShardFolder, *views, **changes) -> LoaderSpec:
    asked = ViewSpec(views=views or VIEWS)
    folder = ShardFolder(shards) if isinstance(shards, Path) else shards
    defaults = dict(shards=folder, views=asked, batch_size=8, num_threads=2, seed=3, max_bad_fraction=0.1)
    return LoaderSpec(**{**defaults, **changes})


def test_a_batch_has_what_the_view_spec_asks_for(shards):
    batch = next(make_loader(spec(shards)))
    assert [tuple(view.shape[1:]) for view in batch.views] == ViewSpec(views=VIEWS).shapes()
    assert [view.dtype for view in batch.views] == [torch.float32, torch.int64, torch.int64, torch.float32, torch.int64]


def test_each_sample_shows_one_of_its_captions(shards):
    tokens = load_tokenizer("clip", CONTEXT)
    (batch,) = take(make_selection(spec(shards, batch_size=32), np.arange(32)), 1)
    assert 5 not in batch.ids.tolist() and 6 in batch.ids.tolist(), "one without captions is replaced"
    shown = []
    for number, ids in zip(batch.ids.tolist(), batch.views[1].numpy(), strict=True):
        possible = tokens(captions(number)).tolist()
        shown.append(possible.index(ids.tolist()))
    assert set(shown) == {0, 1, 2, 3}
    first = load_tokenizer("clip", 9)([captions(number)[0] for number in batch.ids.tolist()])
    assert np.array_equal(batch.views[2].numpy(), first)
    beside = [[tokens(captions(number)).tolist() for number in range(32) if captions(number)]]
    rows = [
        [number for number, texts in enumerate(beside[0]) if ids.tolist() in texts] for ids in batch.views[4].numpy()
    ]
    assert all(len(found) == 1 for found in rows), "of another sample"


def test_captions_are_drawn_evenly_and_anew_in_each_epoch():
    ids, counts = np.arange(4000), np.full(4000, 4)
    drawn = [caption_numbers(TextView(), "view1", 0, np.full(4000, epoch), ids, counts) for epoch in range(2)]
    shares = [np.bincount(each, minlength=4) / 4000 for each in drawn]
    assert np.abs(np.array(shares) - 0.25).max() < 0.04 and 0.15 < (drawn[0] == drawn[1]).mean() < 0.35
    other = caption_numbers(TextView(), "view2", 0, np.zeros_like(ids), ids, counts)
    assert 0.15 < (drawn[0] == other).mean() < 0.35, "two views show captions of their own"
    assert not caption_numbers(TextView(line="first"), "view1", 0, np.zeros_like(ids), ids, counts).any()


def test_it_goes_on_with_a_tokenizer_that_was_moved(shards, tmp_path):
    names = [tmp_path / "here.json", tmp_path / "there.json", tmp_path / "another.json"]
    for name, words in zip(names, ({"a": 0}, {"a": 0}, {"b": 0}), strict=True):
        tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=next(iter(words)))).save(str(name))
    of = [spec(shards, RandomView(size=8), TextView(tokenizer=str(name), context=9)) for name in names]
    state = make_loader(of[0]).state_dict()
    next(make_loader(of[1], state=state))
    with pytest.raises(UserError, match=r"loader state: tokenizer \d+ where this run has \d+; resume with"):
        make_loader(of[2], state=state)


@pytest.mark.parametrize(("world", "batch"), [(1, 16), (2, 8), (4, 8)])
def test_views_do_not_depend_on_ranks_or_batches(shards, world, batch):
    alone = global_stream(spec(shards), 1, 48 // 8)
    assert global_stream(spec(shards, batch_size=batch, num_threads=1), world, 48 // batch) == alone


def test_it_goes_on_where_it_stopped_with_the_same_tokenizer_and_captions(shards, tmp_path):
    loader = make_loader(spec(shards))
    for _ in range(3):
        next(loader)
    state, rest = loader.state_dict(), take(loader, 2)
    again = take(make_loader(spec(shards), state=state), 2)
    assert all(
        torch.equal(a, b)
        for one, two in zip(rest, again, strict=True)
        for a, b in zip(one.views, two.views, strict=True)
    )
    with pytest.raises(UserError, match=r"loader state: tokenizer \d+ where this run has \d+; resume with"):
        make_loader(spec(shards), state={**state, "tokenizer": 1})
    other = make_captioned(tmp_path / "other")
    manifest = ShardFolder(other).manifest
    manifest.members["txt"].sha256 = "0" * 64
    (other / "manifest.json").write_text(manifest.to_json())
    with pytest.raises(UserError, match=r"txt\.npy: changed since it was written"):
        make_loader(spec(other))
    with pytest.raises(UserError, match=r"loader state: shards \d+"):
        make_loader(spec(ShardFolder(other, hashes=False)), state=state)


def test_a_damaged_text_replaces_the_whole_sample(tmp_path):
    shards = make_captioned(tmp_path / "shards")
    folder = ShardFolder(shards)
    path, offset = folder.tar_path(int(folder.index["tar"][3])), int(folder.member("txt")["offset"][3])
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff")
    (batch,) = take(make_selection(spec(shards, batch_size=4), np.array([2, 3, 4])), 1)
    assert batch.ids.tolist() == [2, 4, 4]
    assert all(torch.equal(view[1], view[2]) for view in batch.views[:3])
    with pytest.raises(UserError, match=r"sample 3 .* is damaged: its bytes changed since they were packed"):
        list(make_pass(spec(shards)))


def test_a_pass_names_the_sample_that_has_no_caption(shards):
    said = r"sample 5 .* is incomplete: it has none of what a view shows beside its image; name those .* --data\.ids$"
    with pytest.raises(UserError, match=said):
        list(make_pass(spec(shards)))


def test_too_many_without_a_caption_are_told_from_damage(shards):
    """Nothing of them is damaged, so that ``shards verify`` would find nothing."""
    said = r"damaged or incomplete, more than .*; 1 of 32 have no \.txt beside their image: .* --data\.ids, or raise"
    with pytest.raises(UserError, match=said) as error:
        take(make_loader(spec(shards, max_bad_fraction=0.0)), 4)
    assert "verify" not in str(error.value)
    with pytest.raises(UserError, match=r"; 1 of 3 have no \.txt"):
        take(make_loader(spec(shards, ids=np.array([3, 5, 6]), batch_size=3, max_bad_fraction=0.0)), 1)


def test_text_that_cannot_be_decoded_is_named_like_any_damage(tmp_path):
    """Its table lists it, and its bytes are as listed: another version wrote that."""
    shards = make_captioned(tmp_path / "shards")
    folder = ShardFolder(shards)
    rows = folder.member("txt").copy()
    image = folder.index[9]
    rows[9] = image["offset"], image["size"], image["crc32"]
    np.save(shards / "members" / "txt.npy", rows)
    asked = spec(ShardFolder(shards, hashes=False), batch_size=4)
    (batch,) = take(make_selection(asked, np.array([8, 9, 10])), 1)
    assert batch.ids.tolist() == [8, 10, 10]


def test_shards_without_captions_are_refused(shards, tmp_path):
    folder = ShardFolder(shards)
    told = Manifest.from_json(folder.manifest.to_json().encode(), tmp_path)
    told.members["txt"].count = 0
    for name in ("index.npy", *(shard.tar for shard in told.shards)):
        (tmp_path / name).symlink_to(shards / name)
    (tmp_path / "manifest.json").write_text(told.to_json())
    with pytest.raises(UserError, match=r"not one \.txt of theirs can be used"):
        make_loader(spec(tmp_path))
    told.members = {}
    (tmp_path / "manifest.json").write_text(told.to_json())
    with pytest.raises(UserError, match=r"have no \.txt beside their images; pack images with theirs"):
        make_loader(spec(tmp_path))
    with pytest.raises(UserError, match="0 views of images"):
        make_loader(spec(shards, TextView()))
    with pytest.raises(UserError, match=r"views\[1\].of 0: is no view of images; choose one of 2"):
        ViewSpec(views=(TextView(), MaskView(of=0), CenterView()))


def test_a_text_that_is_none_fails_the_batch():
    with pytest.raises(RuntimeError, match="a text: its text is empty"):
        view, ids = TextView(context=5), np.zeros(1, np.int64)
        out = np.zeros((1, 5), np.int64)
        see_texts([bytearray()], view, load_tokenizer("clip", 5), "view0", 0, ids, ids, out, slice(0, 1))


def test_all_captions_of_some_samples_are_read(tmp_path):
    shards = make_captioned(tmp_path / "shards")
    folder, ids = ShardFolder(shards), np.array([9, 5, 2, 31])
    assert read_captions(folder, ids) == [captions(number) for number in ids.tolist()]
    path, offset = folder.tar_path(int(folder.index["tar"][2])), int(folder.member("txt")["offset"][2])
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff")
    with pytest.raises(UserError, match=r"sample 2 .* is damaged: its bytes changed since they were packed"):
        read_captions(folder, ids)
