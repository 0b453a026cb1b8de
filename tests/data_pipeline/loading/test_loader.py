"""The stream of batches: the same bytes on any number of ranks, from any step on, whatever is damaged."""

import gc
import hashlib
import io
import json
import logging
import shutil
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from streams import global_stream, stream, take
from torchvision.transforms import v2

from eyespot.data_pipeline.augment.views import CenterView, RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader, make_pass, make_selection
from eyespot.data_pipeline.order.sample_order import SampleOrder
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

LABELLED = RandomView(size=24, scale=(0.05, 0.4), rand_augment=9.0, erase=0.25)
COLORED = RandomView(size=48, jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, blur=0.5, solarize=0.2)
TWO_VIEWS, PLAIN = ViewSpec(views=(COLORED, LABELLED)), ViewSpec(views=(RandomView(size=16),))
CENTER = ViewSpec(views=(CenterView(resize=10, size=8),))


@pytest.fixture
def shards(digit_shards, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(digit_shards, tmp_path / "shards"))


def digits_spec(shards: Path, /, **changes) -> LoaderSpec:
    return LoaderSpec(**{**dict(shards=ShardFolder(shards), views=PLAIN, batch_size=48, num_threads=2), **changes})


PNG_HEADER, PNG_END = 41, 16  # bytes, with the frame of the one data chunk


def write_index(shards: Path, index: np.ndarray) -> None:
    """And make the manifest agree."""
    np.save(shards / "index.npy", index)
    path = shards / "manifest.json"
    digest = hashlib.sha256((shards / "index.npy").read_bytes()).hexdigest()
    path.write_text(json.dumps({**json.loads(path.read_text()), "index_sha256": digest}))


def undecodable(shards: Path, samples: list[int]) -> None:
    """Overwrites the pixels of images, leaves their headers, and makes the index agree: only decoding can find it."""
    index, manifest = np.load(shards / "index.npy"), ShardFolder(shards).manifest
    for sample in samples:
        tar, offset, size = index[["tar", "offset", "size"]][sample].item()
        with (shards / manifest.shards[tar].tar).open("r+b") as file:
            file.seek(offset)
            data = file.read(size)
            data = data[:PNG_HEADER] + b"x" * (size - PNG_HEADER - PNG_END) + data[-PNG_END:]
            file.seek(offset)
            file.write(data)
        index["crc32"][sample] = zlib.crc32(data)
    write_index(shards, index)


@pytest.mark.parametrize("data", ["digit_shards", "photo_shards"])
def test_the_stream_is_the_same_for_any_number_of_ranks_and_threads(data, request):
    spec = digits_spec(request.getfixturevalue(data), views=TWO_VIEWS, batch_size=32, seed=7)
    alone = global_stream(spec, 1, 12)  # 384 samples: the 301 photographs enter their second epoch
    assert global_stream(replace(spec, num_threads=3), 2, 12) == alone
    assert global_stream(replace(spec, num_threads=1), 4, 12) == alone
    assert global_stream(replace(spec, batch_size=96), 1, 4) == alone
    assert global_stream(replace(spec, seed=8), 1, 12) != alone


def test_multi_crop_is_several_views_of_several_sizes(photo_shards):
    """Each view keeps its bits whatever other views are asked for beside it, and their colours do not move a crop."""
    large, small = COLORED, replace(COLORED, size=20, scale=(0.05, 0.2))
    many = ViewSpec(views=(large,) * 2 + (small,) * 3)
    spec = digits_spec(photo_shards, views=many, batch_size=32)
    (batch,) = take(make_loader(spec), 1)
    assert [view.shape for view in batch.views] == [(32, 3, size, size) for size in (48, 48, 20, 20, 20)]
    for one, other in ((0, 1), (2, 3), (3, 4)):
        assert (batch.views[one] != batch.views[other]).any(dim=(1, 2, 3)).all()
    (pair,) = take(make_loader(replace(spec, views=replace(many, views=(large, large)))), 1)
    assert all(torch.equal(*views) for views in zip(pair.views, batch.views, strict=False))
    (still,) = take(make_loader(replace(spec, views=replace(many, views=(RandomView(size=48),) * 2))), 1)
    same = (still.views[0] == batch.views[0]).all(dim=(1, 2, 3))  # neither jittered, grayed, blurred nor solarized
    assert 0 < same.sum() < 16


def test_ids_epochs_and_labels_are_those_of_the_order(digit_shards):
    spec = digits_spec(digit_shards, batch_size=400, seed=3)
    index = ShardFolder(digit_shards).index
    loader = make_loader(spec)
    assert loader.num_samples == len(index) == 1438
    _, _, _, batch = take(loader, 4)
    ids, epochs = SampleOrder(1438, 3).ids(1200, 400)
    assert batch.ids.tolist() == ids.tolist()
    assert batch.epochs.tolist() == epochs.tolist() == [0] * 238 + [1] * 162
    assert batch.labels.tolist() == index["label"][ids].tolist()
    assert batch.seed == 3
    assert len(batch) == 400
    assert batch.ids.dtype == batch.epochs.dtype == batch.labels.dtype == torch.int64
    assert batch.views[0].shape == (400, 3, 16, 16)
    assert batch.views[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("first_world", "second_world", "second_batch"), [(1, 1, 48), (1, 4, 48), (2, 3, 24), (4, 1, 7)]
)
def test_resume_goes_on_exactly_there(digit_shards, first_world, second_world, second_batch):
    spec = digits_spec(digit_shards)
    loader = make_loader(spec, 0, first_world)
    for _ in range(3):
        next(loader)
    time.sleep(0.2)  # let it make batches that are never delivered
    state = json.loads(json.dumps(loader.state_dict()))
    loader.close()
    assert state["samples_consumed"] == 3 * 48
    assert all(isinstance(value, int) for value in state.values())
    assert len(state) <= 4
    second = replace(spec, batch_size=second_batch * second_world)
    resumed = global_stream(second, second_world, 4, state)
    whole = take(make_loader(replace(spec, batch_size=1)), 144 + 4 * second_batch * second_world)
    assert resumed == stream(whole[144:])


def test_the_state_of_other_data_or_another_seed_is_refused(digit_shards, photo_shards):
    spec = digits_spec(digit_shards)
    loader = make_loader(spec)
    state = loader.state_dict()
    loader.close()
    with pytest.raises(UserError, match="num_samples 1438 where this run has"):
        make_loader(replace(spec, shards=ShardFolder(photo_shards)), state=state)
    with pytest.raises(UserError, match="seed 0 where this run has 1"):
        make_loader(replace(spec, seed=1), state=state)
    with pytest.raises(UserError, match=r"shards .* where this run has"):
        make_loader(spec, state={**state, "shards": 5})


def test_only_the_labels_of_the_labeled_ids_are_shown(digit_shards):
    known = np.random.default_rng(0).permutation(1438)[:100]
    spec = digits_spec(digit_shards, batch_size=480)
    whole, hidden = (take(make_loader(each), 3) for each in (spec, replace(spec, labeled_ids=known)))
    assert stream(whole)[:-1] == stream(hidden)[:-1]  # the same images in the same order
    ids, labels = (torch.cat([getattr(batch, name) for batch in whole]) for name in ("ids", "labels"))
    shown = torch.cat([batch.labels for batch in hidden])
    assert shown.tolist() == torch.where(torch.isin(ids, torch.from_numpy(known)), labels, -1).tolist()
    loader = make_loader(replace(spec, labeled_ids=known[::-1].copy()))
    state = loader.state_dict()
    loader.close()
    assert global_stream(replace(spec, labeled_ids=known), 2, 3, state) == stream(hidden)  # a set: in any order
    with pytest.raises(UserError, match=r"shards .* where this run has .*ids"):
        make_loader(replace(spec, labeled_ids=known[:99]), state=state)


@pytest.mark.parametrize("size", [32, 224])
def test_views_are_those_of_torchvisions_pil_path(photo_shards, size):
    mean, std = (0.5, 0.45, 0.4), (0.3, 0.25, 0.2)
    view = CenterView(resize=size * 8 // 7, size=size)
    transform = v2.Compose(
        [
            v2.Resize(view.resize, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(size),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )
    spec = digits_spec(photo_shards, views=ViewSpec(views=(view,), mean=mean, std=std), batch_size=40)
    manifest = ShardFolder(photo_shards).manifest
    loader = make_pass(spec)
    for batch in take(loader, 2):
        for found, row in zip(batch.views[0], ShardFolder(photo_shards).index[batch.ids.numpy()], strict=True):
            tar = (photo_shards / manifest.shards[row["tar"]].tar).read_bytes()
            file = tar[int(row["offset"]) : int(row["offset"]) + int(row["size"])]
            expected = transform(Image.open(io.BytesIO(file)).convert("RGB"))
            scale = 255 * torch.tensor(std)[:, None, None]
            assert ((found - expected) * scale).abs().mean() < 0.5  # 8-bit levels
            assert ((found.roll(1, 2) - expected) * scale).abs().mean() > 0.5


@pytest.mark.parametrize("world_size", [1, 3, 4])
def test_a_pass_sees_every_row_once(digit_shards, world_size):
    spec = digits_spec(digit_shards, views=CENTER, batch_size=100)
    ranks = [list(make_pass(spec, rank, world_size)) for rank in range(world_size)]
    for rank, batches in enumerate(ranks):
        ids = torch.cat([batch.ids for batch in batches]).tolist()
        assert ids == list(range(1438 * rank // world_size, 1438 * (rank + 1) // world_size))
        assert {len(batch) for batch in batches[:-1]} == {100 // world_size}
    together = stream([batch for batches in ranks for batch in batches])
    assert together == stream(list(make_pass(replace(spec, batch_size=7, num_threads=1))))


def test_a_pass_over_chosen_samples_sees_these(digit_shards):
    (every,) = make_pass(digits_spec(digit_shards, views=CENTER, batch_size=1438))
    spec = digits_spec(digit_shards, views=CENTER, ids=np.array([3, 7, 700, 1437]))
    parts = [part for rank in range(3) for part in make_pass(spec, rank, 3)]
    assert [part.ids.tolist() for part in parts] == [[3], [7], [700, 1437]]
    assert torch.equal(torch.cat([part.views[0] for part in parts]), every.views[0][[3, 7, 700, 1437]])


def test_a_selection_is_what_the_first_epoch_shows_of_it(digit_shards, shards):
    """Also in place of a damaged sample, which in a pass is an error."""
    undecodable(shards, [700])
    chosen = np.array([700, 3, 1437, *range(100, 150)])
    selected = list(make_selection(digits_spec(shards, seed=2), chosen))
    assert [len(batch) for batch in selected] == [48, 5]
    ids = torch.cat([batch.ids for batch in selected]).tolist()
    assert ids[1:] == chosen[1:].tolist() and ids[0] != 700
    (epoch,) = take(make_loader(digits_spec(digit_shards, batch_size=1438, seed=2)), 1)
    place = {sample: row for row, sample in enumerate(epoch.ids.tolist())}
    views = torch.cat([batch.views[0] for batch in selected])
    assert torch.equal(views, epoch.views[0][[place[sample] for sample in ids]])


def test_a_png_that_ends_too_early_is_damage_and_crashes_nothing(shards):
    """Its bytes are as the index says; DALI would cut a region out of an image whose size it does not know."""
    index = np.load(shards / "index.npy")
    index["size"][700] = 60
    tar, offset = index[["tar", "offset"]][700].item()
    data = (shards / ShardFolder(shards).manifest.shards[tar].tar).read_bytes()[offset : offset + 60]
    index["crc32"][700] = zlib.crc32(data)
    write_index(shards, index)
    loader = make_selection(digits_spec(shards), np.arange(690, 710))
    (batch,) = loader
    assert loader.bad_samples == 1 and (batch.ids.numpy() != np.arange(690, 710)).nonzero()[0].tolist() == [10]


def test_a_pass_may_have_nothing_for_a_rank_and_stays_ended(digit_shards):
    loader = make_pass(digits_spec(digit_shards, views=CENTER), 0, 2000)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(loader)


def test_damaged_bytes_are_replaced_counted_and_named(shards, caplog):
    spec = digits_spec(shards, batch_size=1438, max_bad_fraction=0.01)
    expected = take(make_loader(spec), 1)[0]
    index, manifest = ShardFolder(shards).index, ShardFolder(shards).manifest
    for sample in (100, 900):
        path = shards / manifest.shards[index["tar"][sample]].tar
        data = bytearray(path.read_bytes())
        data[int(index["offset"][sample]) + 20] ^= 1
        path.write_bytes(data)
    loader = make_loader(spec)
    with caplog.at_level(logging.WARNING, "eyespot"):
        batch = next(loader)
    assert loader.bad_samples == 2
    assert "sample 100 (" in caplog.text
    assert "sample 900 (" in caplog.text
    replaced = {100: 101, 900: 901}
    assert batch.ids.tolist() == [replaced.get(sample, sample) for sample in expected.ids.tolist()]
    good = [row for row, sample in enumerate(expected.ids.tolist()) if sample not in replaced]
    assert (batch.views[0][good] == expected.views[0][good]).all()
    for sample, other in replaced.items():
        row, source = expected.ids.tolist().index(sample), expected.ids.tolist().index(other)
        assert (batch.views[0][row] == expected.views[0][source]).all()
        assert batch.labels[row] == expected.labels[source]
    loader.close()


@pytest.mark.parametrize("world_size", [1, 2])
def test_what_cannot_be_decoded_is_replaced_without_losing_a_step(shards, world_size, caplog):
    spec = digits_spec(shards, views=CENTER)
    expected = global_stream(spec, 1, 30)
    undecodable(shards, [200, 201, 700])
    with caplog.at_level(logging.WARNING, "eyespot"):
        found = global_stream(digits_spec(shards, views=CENTER), world_size, 30)
    assert "sample 200 (" in caplog.text
    assert "cannot decode" in caplog.text
    replaced = {200: 202, 201: 202, 700: 701}
    assert found[1] == [replaced.get(sample, sample) for sample in expected[1]]
    assert len(found[0]) == len(expected[0])


@pytest.mark.parametrize("make", [make_loader, make_pass])
def test_an_index_that_is_not_the_manifests_is_refused(shards, make):
    index = np.load(shards / "index.npy")
    index["height"][300] = 500  # DALI would crash over it
    np.save(shards / "index.npy", index)
    with pytest.raises(UserError, match=r"index.npy: changed since it was written.*eyespot shards index"):
        make(digits_spec(shards))


@pytest.mark.parametrize("damage", ["bytes", "images"])
def test_too_much_damage_stops_with_one_line(shards, damage):
    spec = digits_spec(shards, views=CENTER, max_bad_fraction=0.02)
    loader = make_loader(spec)
    if damage == "images":
        loader.close()
        undecodable(shards, list(range(0, 1438, 10)))
        loader = make_loader(spec)
    else:
        for path in shards.glob("*[02468].tar"):
            path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match=r"samples are damaged, more than max_bad_fraction 0.02.*eyespot shards verify"):
        for _ in range(100):
            next(loader)
    with pytest.raises(UserError):
        next(loader)


@pytest.mark.parametrize("kind", ["bytes", "image"])
def test_in_a_pass_damage_is_an_error(shards, kind):
    if kind == "image":
        undecodable(shards, [500])
    else:
        index = np.load(shards / "index.npy")
        index["crc32"][500] += 1
        write_index(shards, index)
    with pytest.raises(UserError, match=r"sample 500 \(.*\.tar.*is damaged"):
        list(make_pass(digits_spec(shards, views=CENTER)))


def test_delivered_tensors_are_never_written_again(digit_shards):
    loader = make_loader(digits_spec(digit_shards))
    batches = [next(loader) for _ in range(3)]
    copies = [batch.views[0].clone() for batch in batches]
    for _ in range(40):
        next(loader)
    assert all((batch.views[0] == copy).all() for batch, copy in zip(batches, copies, strict=True))
    loader.close()
    del loader
    gc.collect()
    assert all((batch.views[0] == copy).all() for batch, copy in zip(batches, copies, strict=True))


def eyespot_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("eyespot")]


@pytest.mark.parametrize("ending", ["close", "forget", "finish"])
def test_no_thread_is_left_behind(digit_shards, ending):
    if ending == "finish":
        list(make_pass(digits_spec(digit_shards, views=CENTER)))
    else:
        before = len(list(Path("/proc/self/task").iterdir()))
        loader = make_loader(digits_spec(digit_shards))
        next(loader)
        assert eyespot_threads()
        if ending == "close":
            loader.close()
            loader.close()
            with pytest.raises(ValueError, match="closed"):
                next(loader)
        del loader
        gc.collect()
        assert len(list(Path("/proc/self/task").iterdir())) <= before + 4  # torch's own pool may have started
    assert not eyespot_threads()


def test_a_process_that_never_closes_its_loader_ends_at_once(digit_shards):
    code = f"""
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
spec = LoaderSpec(shards=ShardFolder({str(digit_shards)!r}), views=ViewSpec(views=(RandomView(size=16),)), batch_size=8)
loader = make_loader(spec)
next(loader)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(batch_size=2000), "data.batch_size 2000: more than the 1,438 samples"),
        (dict(batch_size=47), "batch_size 47: 2 ranks do not divide it"),
        (dict(batch_size=0), "batch_size 0: must be at least 1"),
        (dict(num_threads=0), "num_threads 0: must be at least 1"),
        (dict(device="cuda:99"), "device cuda:99: not on this machine"),
        (dict(device="tpu"), "device tpu: not on this machine"),
        (dict(decode="gpu"), "data.decode gpu: this run is on the CPU; set it to auto"),
        (dict(views=ViewSpec(views=(CenterView(resize=32, size=64),))), "size 64: larger than resize 32"),
        (dict(views=ViewSpec(views=(RandomView(scale=(0.0, 1.0)),))), "scale"),
        (dict(views=ViewSpec(views=())), "need a view"),
    ],
)
def test_wrong_input_gets_one_line(digit_shards, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        make_loader(digits_spec(digit_shards, **changes), 0, 2)
    assert "\n" not in str(caught.value)


def test_a_truncated_tar_is_found_at_the_start(shards):
    path = shards / "shard-000004.tar"
    path.write_bytes(path.read_bytes()[:-1024])
    for make in (make_loader, make_pass):
        with pytest.raises(UserError, match="shard-000004"):
            make(digits_spec(shards))
    assert not eyespot_threads()
