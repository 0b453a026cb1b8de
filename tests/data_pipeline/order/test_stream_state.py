"""A stream in lanes goes on where it stood, on other ranks and in other batches; in no other lanes."""

from contextlib import closing
from dataclasses import replace

import pytest
from streams import global_stream

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.order.lane_order import LaneOrder
from eyespot.data_pipeline.order.stream_state import check_lanes, checked_start, frame_of
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


@pytest.fixture
def spec(digit_shards) -> LoaderSpec:
    views = ViewSpec(views=(RandomView(size=16),))
    return LoaderSpec(shards=ShardFolder(digit_shards), views=views, batch_size=48, num_threads=2, lanes=4)


def test_the_stream_in_lanes_is_the_same_for_any_number_of_ranks(spec):
    alone = global_stream(spec, 1, 4)
    assert alone[1] == LaneOrder(1438, 0, 4, 48).ids(0, 192)[0].tolist()
    for ranks in (2, 3):
        assert global_stream(spec, ranks, 4) == alone
    assert global_stream(replace(spec, batch_size=12, lane_frame=48), 1, 16) == alone


@pytest.mark.parametrize(("second_world", "second_batch"), [(1, 48), (4, 20), (2, 96), (3, 7 * 3)])
def test_it_goes_on_with_the_frame_that_it_began_with(spec, second_world, second_batch):
    with closing(make_loader(spec, 0, 2)) as loader:
        next(loader)
        state = loader.state_dict()
    assert (state["lanes"], state["lane_frame"], state["samples_consumed"]) == (4, 48, 48)
    state["samples_consumed"] = 29 * 48  # 46 samples before the epoch's end
    _, ids, epochs, _ = global_stream(replace(spec, batch_size=second_batch), second_world, 3, state)
    expected = LaneOrder(1438, 0, 4, 48).ids(29 * 48, 3 * second_batch)
    assert (ids, epochs) == tuple(part.tolist() for part in expected)


def test_a_state_of_other_lanes_is_refused(spec):
    one = replace(spec, lanes=1)
    states = []
    for each in (spec, one):
        with closing(make_loader(each)) as loader:
            states.append(loader.state_dict())
    assert not {"lanes", "lane_frame"} & set(states[1])  # as it was before there were any
    for other, state in ((one, states[0]), (spec, states[1]), (replace(spec, lanes=8), states[0])):
        with pytest.raises(UserError, match=r"loader state: lanes \d where this run has \d; resume with .* lanes"):
            make_loader(other, state=state)
    with closing(make_loader(one, state=states[1])) as loader:
        assert loader.state_dict() == states[1]


def test_lanes_that_do_not_divide_are_told_what_would(spec):
    with pytest.raises(
        UserError, match=r"data\.lanes 5: must divide the micro-batch, 48 over all ranks; for inst.* 4$"
    ):
        make_loader(replace(spec, lanes=5))
    with pytest.raises(UserError, match=r"data\.lanes 64: must divide the micro-batch, 4,000 .*; for instance 50$"):
        check_lanes(64, 4000)
    with pytest.raises(UserError, match=r"data\.lanes 9: .*, 7 over all ranks; for instance 7$"):
        check_lanes(9, 7)


def test_the_state_says_where_and_in_which_frame():
    assert checked_start({"seed": 1}, None) == 0
    assert checked_start({"seed": 1}, {"seed": 1, "samples_consumed": 7}) == 7
    with pytest.raises(UserError, match="loader state: seed 2 where this run has 1"):
        checked_start({"seed": 1}, {"seed": 2, "samples_consumed": 7})
    assert frame_of(4, None, 48) == frame_of(4, {"seed": 1}, 48) == frame_of(4, {"lane_frame": 48}, 30) == 48
