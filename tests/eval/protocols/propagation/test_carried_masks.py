"""Masks of all frames, whatever the numbers of their objects."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_squares import pack_squares

from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.subject import subjects_of
from eyespot.eval.protocols.propagation.carried_masks import answers_of, judged_masks
from eyespot.eval.protocols.propagation.carriers import carriers_of
from eyespot.eval.protocols.propagation.masked_videos import MaskedVideos


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    return pack_squares(tmp_path_factory.mktemp("shards") / "squares").path


def test_a_vision_transformer_sees_whole_frames(squares):
    subjects = subjects_of("test_vit3", seed=0, pretrained=False)
    videos = MaskedVideos(ShardFolder(squares))
    (video,) = videos.read([0])
    encoder = carriers_of(subjects, 48, torch.device("cpu"))[0]
    assert encoder.shown(video.frames[0]) == (48, 64) and encoder.stride == 16
    with torch.inference_mode():
        answers = answers_of(encoder, video, torch.device("cpu"))
    assert len(answers) == len(video.frames) and {answer.shape for answer in answers} == {(48, 64)}
    assert judged_masks(encoder, video, torch.device("cpu"))[0].regions[0] < 1
    assert set(np.unique(answers)) == {0, 1} and np.array_equal(answers[0], video.masks[0])


def test_it_does_not_matter_which_numbers_objects_have(squares):
    (carrier, *_) = carriers_of(subjects_of("test_resnet", seed=0, pretrained=False), 48, torch.device("cpu"))
    (video,) = MaskedVideos(ShardFolder(squares)).read([0])
    video.masks[0] = np.where(np.arange(64) < 8, 254, video.masks[0]).astype(np.uint8)

    def answers(number: int, ignored: int) -> list[np.ndarray]:
        renamed = np.array([0, number, *range(2, 254), ignored, 0], np.uint8)
        other = replace(video, masks={0: renamed[video.masks[0]]}, ignored=ignored)
        with torch.inference_mode():
            return [answer == number for answer in answers_of(carrier, other, torch.device("cpu"))]

    first = answers(1, 255)
    for number, ignored in ((255, 254), (200, 3)):
        assert all(map(np.array_equal, first, answers(number, ignored)))
    assert first[5].any() and not first[5].all()
