"""The stream of a mixture: the same on any number of ranks, exact after a resume, and each source for itself."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from streams import global_stream, stream, take

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.loading.mixtures.stream_order import order_of, share_of_frame
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.stores.open_store import open_store

VIEWS = ViewSpec(views=(RandomView(size=16, jitter=(0.4, 0.4, 0.4, 0.1)),))


def mix_spec(text: str | Path, **changes) -> LoaderSpec:
    return LoaderSpec(**{**dict(shards=find_shards(text), views=VIEWS, batch_size=20, num_threads=2), **changes})


@pytest.fixture
def both(digit_shards, photo_shards) -> str:
    return f"{digit_shards}:0.7,{photo_shards}:0.3"


def test_the_stream_is_the_same_for_any_number_of_ranks(both):
    spec = mix_spec(both, seed=7)
    alone = global_stream(spec, 1, 12)
    assert global_stream(spec, 2, 12) == alone
    assert global_stream(spec, 4, 12) == alone
    assert global_stream(replace(spec, batch_size=60), 1, 4) == alone
    assert global_stream(replace(spec, seed=8), 1, 12) != alone
    ids = np.array(alone[-3])
    for end in range(1, len(ids) + 1):
        assert abs((ids[:end] < 1438).sum() - 0.7 * end) < 1
    labels = np.array(alone[-1])
    assert (labels[ids < 1438] < 10).all() and (labels[ids >= 1438] >= 10).all()


@pytest.mark.parametrize(("first_world", "second_world", "second_batch"), [(1, 4, 20), (2, 1, 7), (4, 3, 5)])
def test_a_resume_goes_on_exactly_there(both, first_world, second_world, second_batch):
    spec = mix_spec(both)
    loader = make_loader(spec, 0, first_world)
    for _ in range(3):
        next(loader)
    state = json.loads(json.dumps(loader.state_dict()))
    loader.close()
    assert state["samples_consumed"] == 60 and all(isinstance(value, int) for value in state.values())
    assert set(state) == {"samples_consumed", "num_samples", "shards", "seed", "mixture"}
    second = replace(spec, batch_size=second_batch * second_world)
    resumed = global_stream(second, second_world, 3, state)
    whole = take(make_loader(replace(spec, batch_size=1)), 60 + 3 * second_batch * second_world)
    assert resumed == stream(whole[60:])


def test_one_source_alone_is_the_folder_to_the_bit(photo_shards):
    alone, plain = (mix_spec(text, seed=3) for text in (f"{photo_shards}:1", photo_shards))
    assert isinstance(plain.shards, ShardFolder) and type(plain.shards) is ShardFolder
    assert global_stream(alone, 1, 20) == global_stream(plain, 1, 20)  # into the second pass
    ids = np.arange(0, 300, 3)[::-1].copy()
    assert global_stream(replace(alone, ids=ids), 2, 6) == global_stream(replace(plain, ids=ids), 2, 6)


def test_lanes_of_each_source_change_nothing_but_the_order(both):
    spec = mix_spec(both, lanes=2)
    alone = global_stream(spec, 1, 6)
    assert global_stream(spec, 2, 6) == alone != global_stream(mix_spec(both), 1, 6)
    ids = np.array(alone[-3])
    assert all(abs((ids[:end] < 1438).sum() - 0.7 * end) < 1 for end in range(1, len(ids) + 1))
    assert share_of_frame(256, 0.7, 8) == 176 and share_of_frame(16, 0.01, 8) == 8


def test_a_cap_bounds_what_is_seen(digit_shards, photo_shards, tmp_path):
    path = tmp_path / "mix.toml"
    path.write_text(
        f'[sources.a]\nshards = "{digit_shards}"\nweight = 1\ncap = 50\n'
        f'[sources.b]\nshards = "{photo_shards}"\nweight = 1'
    )
    loader = make_loader(mix_spec(path))
    assert loader.num_samples == 351
    ids = np.concatenate([batch.ids.numpy() for batch in take(loader, 20)])
    own = ids[ids < 1438]
    assert len(own) == 200 and len(np.unique(own)) == 50
    assert all(len(np.unique(own[begin : begin + 50])) == 50 for begin in range(0, 200, 50))
    told = loader.sources.told(400)
    assert told == {
        "data/source/a/share": 0.5,
        "data/source/a/passes": 4.0,
        "data/source/b/share": 0.5,
        "data/source/b/passes": round(200 / 301, 4),
    }


def test_who_stands_in_is_of_the_same_source(digit_shards, photo_shards, tmp_path):
    """The last samples of the first source are damaged: behind them in the mixture lie those of the second."""
    damaged = Path(shutil.copytree(digit_shards, tmp_path / "damaged"))
    shards = ShardFolder(damaged)
    gone = list(range(1418, 1438))
    for sample in gone:
        tar, offset = shards.index[["tar", "offset"]][sample].item()
        with (damaged / shards.manifest.shards[tar].tar).open("r+b") as file:
            file.seek(offset)
            file.write(b"xxxx")
    spec = mix_spec(f"{damaged}:0.9,{photo_shards}:0.1", batch_size=48, max_bad_fraction=0.5)
    whole, loaders = global_stream(spec, 1, 36), [make_loader(spec, rank, 2) for rank in range(2)]
    delivered = [take(loader, 36) for loader in loaders]
    assert stream([batch for step in zip(*delivered, strict=True) for batch in step]) == whole
    ids = np.array(whole[-3])
    assert not np.isin(gone, ids).any()
    for end in (1, 48, 500, len(ids)):  # who stood in counts as who was replaced
        assert abs((ids[:end] < 1438).sum() - 0.9 * end) < 1
    wanted = int(np.isin(order_of(spec.shards, None, 0).ids(0, len(ids))[0], gone).sum())
    assert sum(loader.sources.bad for loader in loaders).tolist() == [wanted, 0] and wanted >= len(gone)
    assert sum(loader.bad_samples for loader in loaders) == wanted


def test_another_mix_is_refused_in_one_line(both, digit_shards, photo_shards):
    loader = make_loader(mix_spec(both))
    state = loader.state_dict()
    loader.close()
    others = [f"{digit_shards}:0.6,{photo_shards}:0.4", f"{photo_shards}:0.3,{digit_shards}:0.7", str(digit_shards)]
    for other in others:
        with pytest.raises(UserError, match=r"the sources of data\.shards, or their proportions") as caught:
            make_loader(mix_spec(other), state=state)
        assert "\n" not in str(caught.value) and "begin another run" in str(caught.value)
    plain = make_loader(mix_spec(digit_shards))
    with pytest.raises(UserError, match=r"the sources of data\.shards"):
        make_loader(mix_spec(both), state=plain.state_dict())
    plain.close()


def test_partners_are_of_the_same_source(both):
    spec = mix_spec(both, views=ViewSpec(views=(RandomView(size=16), RandomView(size=16, partner=True))))
    from eyespot.data_pipeline.loading.sample_files import SampleFiles

    ids, epochs = np.array([0, 1437, 1438, 1700, 5]), np.arange(5)
    partners = SampleFiles(spec.shards, spec.views, 0).partners(ids, epochs)
    assert ((partners < 1438) == (ids < 1438)).all() and (partners != ids).all()
    among = np.array([3, 9, 1440, 1700])
    files = SampleFiles(spec.shards, spec.views, 0, among)
    assert files.partners(np.array([3, 9, 1440, 1700]), np.arange(4)).tolist() == [9, 3, 1700, 1440]
    with pytest.raises(UserError, match="one sample has all that is asked for"):
        SampleFiles(spec.shards, spec.views, 0, np.array([3, 9, 1440]))


@pytest.mark.slow
def test_a_source_may_lie_in_an_object_store(digit_shards, photo_shards, faults):
    """One of the two on a real server: the same bytes, in the same order, as both on the disk."""
    there = open_store("s3://data/mixture/photos")
    for path in photo_shards.iterdir():
        if path.is_file():
            there.put(path.name, path.read_bytes())
    near = mix_spec(f"{digit_shards}:0.6,{photo_shards}:0.4")
    far = mix_spec(f"{digit_shards}:0.6,s3://data/mixture/photos:0.4")
    assert far.shards.is_remote and not near.shards.is_remote and not far.shards.sources[0].is_remote
    assert far.shards.manifest.image_stats == near.shards.manifest.image_stats
    expected = global_stream(near, 1, 6)
    assert global_stream(far, 1, 6) == expected
    faults.inject("reset", 0.2)
    assert global_stream(far, 2, 6) == expected
