"""What rows cannot say is refused by number; what test_shard_folder.py asks of whole tables is asked there."""

from dataclasses import replace

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.paged.row_checks import RowChecks
from eyespot.data_pipeline.shards.paged.shard_table import ShardTable
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


@pytest.mark.parametrize("table", [False, True])
def test_rows_are_held_against_tars_and_classes_wherever_these_stand(table, digit_shards):
    found = ShardFolder(digit_shards)
    manifest = replace(found.manifest)
    if table:
        manifest.shards = ShardTable.of(manifest.shards)
    checks, rows = RowChecks(digit_shards, manifest), found.index[100:110].copy()
    assert checks.images("rows.npy", rows, first=100) is rows
    rows["size"][4] = 2**31
    with pytest.raises(UserError, match=r"rows\.npy: offset \d+ of sample 104: its bytes lie beyond the end") as caught:
        checks.images("rows.npy", rows, first=100)
    assert "\n" not in str(caught.value)


def test_a_page_bears_out_what_the_manifest_says_of_all_labels(digit_shards):
    found = ShardFolder(digit_shards)
    rows = found.index[:5].copy()
    RowChecks(digit_shards, found.manifest).page("p", rows, 0)
    none = RowChecks(digit_shards, replace(found.manifest, num_labeled=0))
    with pytest.raises(UserError, match=r"label \d of sample 7, as of 4 more: the manifest says that none has one"):
        none.page("p", rows, 7)
    rows["label"][2] = -1
    RowChecks(digit_shards, replace(found.manifest, num_labeled=9)).page("p", rows, 0)
    with pytest.raises(UserError, match="label -1 of sample 9: the manifest says that all have one"):
        RowChecks(digit_shards, found.manifest).page("p", rows, 7)
