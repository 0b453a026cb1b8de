"""Subjects that are shown clips of videos instead of images: one frame after the other, by the same encoder."""

from collections.abc import Sequence
from dataclasses import replace

from eyespot.data_pipeline.augment.views import Clip
from eyespot.eval.encoders.subject import OfClips, Subject


def clip_subjects(subjects: Sequence[Subject], clips: Sequence[Clip], *, pooled: bool) -> list[Subject]:
    """The same subjects, each frame cut as images are.

    Args:
        subjects: of images, raw pixels among them.
        clips: which frames; several (of several cameras) follow each other.
        pooled: whether the mean over all frames is kept of their features; else a row has those of all frames.
    """
    how = "mean over frames" if pooled else "frame by frame"
    found = []
    for subject in subjects:
        (view,) = subject.views.images
        views = replace(subject.views, views=tuple(replace(view, clip=clip) for clip in clips))
        encoder = OfClips(subject.encoder, pooled=pooled).eval()
        found.append(replace(subject, views=views, encoder=encoder, architecture=f"{subject.architecture}, {how}"))
    return found
