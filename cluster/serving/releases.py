"""The release that is served: verified, loaded, described."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.encoders.timm_sources import is_remote, read_config, remote, views_of
from eyespot.eval.release.golden import load_encoder
from eyespot.eval.release.layout import PROVENANCE, digest_of, read_json
from eyespot.eval.release.verify import verified
from eyespot.pretrain.distributed.arithmetic import set_arithmetic
from eyespot.pretrain.distributed.devices import own_device
from eyespot.pretrain.networks.encoders import encode


def served(release: str, sha256: str | None, device: str) -> tuple[nn.Module, ViewSpec, dict[str, Any]]:
    """The encoder on its device, what it sees, and what /info says of it.

    Args:
        release: a folder, or an address of MLflow's registry or a hub.
        sha256: the digest that it must have; None = any.
        device: "auto", "cpu" or "cuda".

    Raises:
        UserError: it is no release, does not verify, or is another one.
        Outage: the registry does not answer.
    """
    if is_remote(release):
        folder = remote(release)[0]  # which has verified it
    else:
        folder = Path(release)
        verified(folder)
    digest = digest_of(folder)
    if sha256 is not None and digest != sha256.strip().lower():
        raise UserError(f"--sha256 {sha256}: release {release} has {digest}; it is another one")
    place = own_device(device, 0)
    set_arithmetic(place)
    encoder, config = load_encoder(folder).to(place), read_config(folder)
    views, provenance = views_of(config["pretrained_cfg"]), cast(Any, read_json(folder / PROVENANCE, str(folder)))
    size = config["pretrained_cfg"]["input_size"][-1]
    if views.channels != 3:
        raise UserError(f"release {release}: sees images of {views.channels} bands, and pictures are served; use eval")
    with torch.inference_mode():  # and the first request need not wait for what is set up once
        found = encode(encoder, torch.zeros(1, 3, size, size, device=place))
    kinds = {kind: found[kind].shape[1] for kind in ("cls", "mean", "pool", *found) if kind in found}
    about = {
        "name": provenance["name"],
        "license": provenance["license"],
        "sha256": digest,
        "architecture": config["architecture"],
        "kinds": kinds,
        "image_size": size,
    }
    return encoder, views, about
