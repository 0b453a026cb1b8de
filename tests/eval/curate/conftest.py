"""One packed folder with planted copies for all tests of curate."""

import pytest
from planted_copies import names, pack_scenes

COPIED = {"same": range(4), "jpeg": range(3, 9), "smaller": range(9, 14), "mirrored": range(14, 18)}


@pytest.fixture(scope="package")
def planted(tmp_path_factory):
    """The shard folder, the sample of each image by its name, and which scenes were copied how."""
    folder = tmp_path_factory.mktemp("planted")
    shards = pack_scenes(folder, range(40), COPIED)
    return shards, names(shards, folder), COPIED
