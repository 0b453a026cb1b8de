"""Subjects that are shown clips of videos instead of images: one frame after the other, by the same encoder."""

import json
from collections.abc import Sequence
from dataclasses import replace

import torch

from eyespot.data_pipeline.augment.views import Clip
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.encoders.run_objectives import RunObjectives
from eyespot.eval.encoders.subject import OfClips, OneKind, Subject
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.run_json import to_values


def clip_subjects(
    subjects: Sequence[Subject],
    clips: Sequence[Clip],
    *,
    patch_bytes: int = 0,
    own: RunObjectives | None = None,
) -> list[Subject]:
    """The same subjects, each frame cut as images are; a row has the features of all frames.

    Args:
        subjects: of images, raw pixels among them.
        clips: which frames; several (of several cameras) follow each other.
        patch_bytes: the patches of a video's frames are kept, too, where they take no more than so many bytes.
        own: a run whose head embeds frames: of its encoder, and of the random one, the head's embeddings are kept, too.
    """
    heads = {} if own is None else {"encoder": own.trained, "random": own.untrained}
    found = []
    for subject in subjects:
        (view,) = subject.views.images
        views = replace(subject.views, views=tuple(replace(view, clip=clip) for clip in clips))
        patches = 0 < sum(clip.frames for clip in clips) * _bytes_of_patches(subject) <= patch_bytes
        if (head := heads.get(subject.role)) is not None:
            head.encoder = subject.encoder  # one copy, and it may have been told to see another size
        encoder = OfClips(subject.encoder, patches=patches, head=head, cameras=len(clips)).eval()
        how = "frame by frame" + ", with patches" * patches
        if own is not None and head is not None:
            how += f", with its head {json.dumps(to_values(own.run.objective), sort_keys=True)}"
        found.append(replace(subject, views=views, encoder=encoder, architecture=f"{subject.architecture}, {how}"))
    return found


def _bytes_of_patches(subject: Subject) -> int:
    """Of one frame, single precision; 0 where there are none to be had."""
    if isinstance(subject.encoder, OneKind):
        return 0
    size = subject.views.images[0].size
    try:
        with torch.inference_mode():
            blank = torch.zeros(1, subject.views.channels, size, size)
            return 4 * last_tokens(subject.encoder, blank)[-1].patches.numel()
    except UserError:
        return 0
