"""Tables of members: one row for each sample, whether it has one or not."""

import io

import numpy as np

from eyespot.data_pipeline.shards.image_check import StoredMember
from eyespot.data_pipeline.shards.manifest import MASK_DTYPE
from eyespot.data_pipeline.shards.members.member_tables import MemberRows, MemberTables


def rows(*texts: str | None) -> MemberTables:
    """Of samples with these texts; "!" cannot be used, None = there is none."""
    made = MemberRows()
    for number, text in enumerate(texts):
        problem = "no text" if text == "!" else ""
        member = StoredMember(data=b"", crc32=number, problem=problem)
        made.add(
            f"{number}.jpg", {} if text is None else {"txt": member}, {} if problem else {"txt": (512, len(text or ""))}
        )
    return made.tables()


def test_parts_follow_each_other():
    joined = MemberTables.joined([rows("ab", None), rows(None), rows("!", "abc")])
    assert joined.rows["txt"]["size"].tolist() == [2, 0, 0, 0, 3] and joined.num_samples == 5
    assert joined.rows["txt"]["crc32"].tolist() == [0, 0, 0, 0, 1]
    (table,) = joined.files().values()
    assert np.load(io.BytesIO(table)).dtype == MASK_DTYPE
    told = joined.summary()["txt"]
    assert (told.count, told.num_left_out, told.left_out) == (2, 1, [{"source": "0.jpg", "reason": "no text"}])


def test_where_there_are_none_there_is_no_table():
    assert MemberTables.joined([rows(None), rows(None, None)]).files() == {}
