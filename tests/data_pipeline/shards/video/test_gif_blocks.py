"""A GIF that ends within a block is cut; one that lacks no more than its trailer is whole."""

from pathlib import Path

import pytest
from moving_pictures import film

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.video.decode import BadVideo, Ending, Wanted, frames
from eyespot.data_pipeline.shards.video.gif_blocks import is_cut


def test_what_ends_within_a_block_is_cut(tmp_path: Path):
    whole = film(tmp_path / "one.gif", 12).read_bytes()
    assert whole[-2:] == b"\0;"

    def cut(content: bytes) -> bool:
        (tmp_path / "cut.gif").write_bytes(content)
        return is_cut(Place(str(tmp_path / "cut.gif"), 0, len(content)))

    assert not cut(whole) and not cut(whole[:-1]) and not cut(whole + b"whatever follows")
    for size in (0, 5, 12, 100, len(whole) // 2, len(whole) - 3, len(whole) - 2):
        assert cut(whole[:size]) and (size < 13 or cut(whole[:size] + bytes(len(whole) - size))), size
    content = whole[: len(whole) // 2]
    wanted = Wanted(fps=None, resize=None, max_pixels=2**20, max_frames=1000)
    (tmp_path / "cut.gif").write_bytes(content)
    with pytest.raises(BadVideo, match=r"cut"):
        list(frames(Place(str(tmp_path / "cut.gif"), 0, len(content)), wanted, Ending(), lambda: None))
