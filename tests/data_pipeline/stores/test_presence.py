"""Whether a manifest is there, where a store that may not be listed says "denied" of what is not."""

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import Patience
from eyespot.data_pipeline.stores.location import location_of
from eyespot.data_pipeline.stores.presence import each_with, first_with, has_file, status
from eyespot.data_pipeline.stores.store_errors import Denied

PATIENCE = Patience(1.0)


def test_on_a_disk(tmp_path):
    (tmp_path / "some").write_bytes(b"12")
    assert has_file(tmp_path, "some", PATIENCE) and not has_file(tmp_path, "none", PATIENCE)
    assert not has_file(tmp_path / "some", "below", PATIENCE)
    found = status(tmp_path / "some", PATIENCE)
    assert found is not None and found.st_size == 2
    with pytest.raises(UserError, match="cannot be looked at"):
        status(tmp_path / ("x" * 300), PATIENCE)


def test_in_a_store(store, faults):
    above, deeper = location_of("s3://data/stores"), location_of("s3://data/stores/deeper")
    assert first_with("one", [above, deeper], PATIENCE) == deeper
    assert first_with("none", [above, deeper], PATIENCE) is None
    assert list(each_with("one", [above, deeper, location_of("s3://data/none")], PATIENCE)) == [deeper]
    faults.inject("denied", keys="stores/one")
    assert first_with("one", [above, deeper], PATIENCE) == deeper
    with pytest.raises(Denied, match="s3://data/stores/one: denied"):
        first_with("one", [above, location_of("s3://data/none")], PATIENCE)
    with pytest.raises(Denied, match="s3://data/stores/one: denied"):
        list(each_with("one", [above, location_of("s3://data/none")], PATIENCE))
