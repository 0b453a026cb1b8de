"""Sheets of carried masks: which frames, what is coloured, and which files stay."""

import numpy as np
import pytest
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.video.contact_sheet import MASK_COLORS
from eyespot.eval.protocols.propagation.mask_sheet import (
    COLUMNS,
    GAP,
    HEIGHT,
    VIDEOS,
    dotted_strip_of,
    strip_of,
    write_sheets,
)
from eyespot.eval.protocols.propagation.masked_videos import MaskedVideo


def test_a_strip_shows_answer_and_truth():
    frames = [np.full((HEIGHT, 160, 3), 20 * number, np.uint8) for number in range(9)]
    answers = [np.zeros((HEIGHT, 160), np.uint8) for _ in frames]
    answers[2][10:20, 10:20], answers[2][10:20, 40:50] = 1, 2
    true = np.zeros((HEIGHT, 160), np.uint8)
    true[60:80, 60:80], true[:5] = 1, 255
    strip = strip_of(MaskedVideo(sample=0, frames=frames, masks={2: true}, ignored=255), answers)
    assert [picture[-1, -1, 0] for picture in strip] == [0, 40, 80, 120, 160] and len(strip) == COLUMNS
    shown = strip[1]
    for number, column in ((1, 15), (2, 45)):
        assert shown[15, column].tolist() == ((40 + MASK_COLORS[number - 1]) / 2).round().tolist()
    assert (shown[59, 60:80] == 255).all() and (shown[70, 70] == 40).all() and (shown[2, 100] == 40).all()
    assert (strip[2] == 80).all(), "no mask is known there, and none is thought to be"


def test_points_are_dots_over_where_they_are():
    frames = [np.zeros((2 * HEIGHT, 320, 3), np.uint8)] * 3
    true = np.array([[[40.0, 40.0], [np.nan, np.nan]], [[60.0, 40.0], [200.0, 80.0]], [[-900.0, 0.0], [319.9, 239.9]]])
    answers = true.copy()
    answers[1] = [[60.0, 40.0], [200.0, 120.0]]
    strip = dotted_strip_of(frames, answers, true)
    first, _, middle, _, last = strip
    assert [picture.shape for picture in strip] == [(HEIGHT, 160, 3)] * COLUMNS
    assert first[20, 20].tolist() == MASK_COLORS[0].tolist() and first[20, 17].tolist() == [255] * 3
    assert not first[40:].any() and not first[:, 30:].any(), "a point that is not seen is not there"
    assert middle[40, 100].tolist() == [255] * 3 and middle[60, 100].tolist() == MASK_COLORS[1].tolist()
    assert (middle[44:58, 100] == MASK_COLORS[1]).all() and not middle[44:57, 101:].any(), "a line joins the two"
    assert last[-1, -1].tolist() == MASK_COLORS[1].tolist() and not last[:, :140].any()


def test_sheets_hold_a_few_videos_each_and_old_ones_go(tmp_path):
    strip = [np.zeros((HEIGHT, width, 3), np.uint8) for width in (30, 40)]
    assert len(write_sheets([strip] * (2 * VIDEOS + 1), tmp_path / "out", "name")) == 3
    paths = write_sheets([strip] * (VIDEOS + 1), tmp_path / "out", "name")
    assert paths == sorted((tmp_path / "out").iterdir()) and len(paths) == 2
    first, last = (np.asarray(Image.open(path)) for path in paths)
    assert first.shape == (VIDEOS * (HEIGHT + GAP) - GAP, 30 + GAP + 40, 3) and len(last) == HEIGHT
    assert (first[:, 30 : 30 + GAP] == 255).all() and (first[:HEIGHT, :30] == 0).all()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_sheets([strip], tmp_path / "file", "name")
