"""The window of the shuffle is part of which stream it is."""

from contextlib import closing
from dataclasses import replace

import pytest
import torch

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def test_a_wider_window_mixes_more_and_is_part_of_the_streams_identity(digit_shards):
    views = ViewSpec(views=(RandomView(size=16),))
    usual = LoaderSpec(shards=ShardFolder(digit_shards), views=views, batch_size=48, num_threads=2)
    wide = replace(usual, shuffle_window=512)
    with closing(make_loader(usual)) as loader:
        state = loader.state_dict()
    assert "shuffle_window" not in state  # as it was before there were others
    with closing(make_loader(wide)) as loader:
        next(loader)
        wider = loader.state_dict()
    assert wider["shuffle_window"] == 512
    for spec, other in ((wide, state), (usual, wider), (replace(wide, shuffle_window=1024), wider)):
        with pytest.raises(UserError, match=r"loader state: shuffle_window \d+ where this run has \d+"):
            make_loader(spec, state=other)
    with closing(make_loader(wide, state=wider)) as loader, closing(make_loader(wide)) as whole:
        next(whole)
        assert torch.equal(next(loader).ids, next(whole).ids)
