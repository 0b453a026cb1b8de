"""Images of another size than an encoder was trained on: what a network that learned from parts makes of the whole."""

from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from eyespot.data_pipeline.augment.views import CenterView
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.encoders.subject import OneKind, Subject, encode_all
from eyespot.pretrain.networks.encoders import vary_sizes


def at_size(subjects: list[Subject], size: int) -> list[Subject]:
    """The same subjects, shown images of ``size`` pixels and the same part of them as before; raw pixels stay away.

    A vision transformer resamples its positions (``vary_sizes``); others that timm can bind to another size are.

    Raises:
        UserError: an encoder cannot see images of that size.
    """
    return [_at_size(subject, size) for subject in subjects if not isinstance(subject.encoder, OneKind)]


def _let_see(encoder: nn.Module, size: int) -> None:
    """Also what is bound to one size may be bound to another (Swin's windows)."""
    try:
        vary_sizes(encoder)
    except UserError:
        if not hasattr(encoder, "set_input_size"):
            raise
        cast(Any, encoder).set_input_size(img_size=(size, size))


def _at_size(subject: Subject, size: int) -> Subject:
    (view,) = subject.views.views
    assert isinstance(view, CenterView)
    shown = replace(subject.views, views=(replace(view, resize=round(size * view.resize / view.size), size=size),))
    try:
        _let_see(subject.encoder, size)
        with torch.inference_mode():
            encode_all(subject.encoder, torch.zeros(1, subject.views.channels, size, size))
    except UserError as error:
        raise UserError(f"image-size {size}: {error}") from error
    except Exception as error:  # whatever a stranger's architecture says
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"image-size {size}: {subject.name} cannot see images of that size ({reason})") from error
    return replace(subject, tag=f"{subject.tag}-{size}px", views=shown, origin={**subject.origin, "image_size": size})
