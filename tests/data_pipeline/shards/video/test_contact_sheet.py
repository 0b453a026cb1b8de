"""A row a stream, frames in the order of time, the last one among them."""

import io
from pathlib import Path

import numpy as np
import pytest
from moving_squares import FRAMES, pack_squares
from PIL import Image

from eyespot.cluster.commands.shards import main
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.footage import Footage
from eyespot.data_pipeline.shards.members.items import Item, Source
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.video.contact_sheet import GAP, HEIGHT, MASK_COLORS, draw_frames, spread


def frame(level: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (2 * HEIGHT, HEIGHT), (level,) * 3).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    folder = tmp_path_factory.mktemp("shards") / "out"
    frames = {"left": [frame(10 * n) for n in range(3)], "right": [frame(10 * n + 100) for n in range(3)]}
    items = [Item("one", -1, "", 0, 0, frames=Footage(rate=0.0, frames=frames))]
    pack(lambda _: Source(name="films", splits={"": items}), folder)
    return ShardFolder(folder)


def test_frames_side_by_side(shards: ShardFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["show", str(shards.path), "--out", str(tmp_path / "sheet.png")]) == 0
    assert "2 rows" in capsys.readouterr().out
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * HEIGHT + GAP, 3 * 2 * HEIGHT + 2 * GAP, 3)
    middles = sheet[HEIGHT // 2 :: HEIGHT + GAP, HEIGHT :: 2 * HEIGHT + GAP, 0]
    assert middles.tolist() == [[0, 10, 20], [100, 110, 120]] and (sheet[:, 2 * HEIGHT] == 255).all()


def test_frames_are_spread_over_the_whole():
    assert spread(1) == [0] and spread(5) == [0, 1, 2, 3, 4]
    many = spread(1000)
    assert len(many) == 12 and many[0] == 0 and many[-1] == 999 and max(np.diff(many)) - min(np.diff(many)) <= 1


def test_masks_lie_over_their_frames(tmp_path: Path):
    pictures = {}
    for masks in (True, False):
        shards = pack_squares(tmp_path / str(masks), 1, masks=masks)
        assert draw_frames(shards, tmp_path / "sheet.png", 1) == 1
        pictures[masks] = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    wide = HEIGHT * 64 // 48
    for number in range(FRAMES):
        plain, marked = (pictures[m][:, number * (wide + GAP) :][:, :wide] for m in (False, True))
        inside = np.zeros((HEIGHT, wide), bool)
        if number not in (3, FRAMES - 1):  # these have none
            inside[16:48, 2 * (4 + 3 * number) : 2 * (20 + 3 * number)] = True
        assert (marked[~inside] == plain[~inside]).all()
        assert (abs(marked[inside] - (plain[inside] + MASK_COLORS[0]) / 2) <= 0.5).all()


def test_damage_and_images_are_told_in_a_line(shards: ShardFolder, tmp_path: Path):
    with pytest.raises(UserError, match=r"out .*: cannot be written"):
        draw_frames(shards, tmp_path / "none" / "x.png", 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.png").write_bytes(frame(1))
    pack(str(tmp_path / "in"), tmp_path / "images")
    with pytest.raises(UserError, match="recipe: "):
        main(["show", str(tmp_path / "images")])
    with shards.tar_path(0).open("r+b") as file:
        file.seek(int(shards.frames["offset"][0]))
        file.write(b"no")
    with pytest.raises(UserError, match="frame 0 cannot be read; find all damage"):
        draw_frames(shards, tmp_path / "x.png", 1)
    squares = pack_squares(tmp_path / "squares", 1)
    with squares.tar_path(0).open("r+b") as file:
        file.seek(int(squares.frame_masks["offset"][2]))
        file.write(b"no")
    with pytest.raises(UserError, match="the mask of frame 2 cannot be read; find all damage"):
        draw_frames(squares, tmp_path / "x.png", 1)
