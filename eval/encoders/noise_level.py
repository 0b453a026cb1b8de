"""Images with noise: what a network that learned to take it away makes of them (DDAE, Xiang 2023, arXiv:2303.09769).

With a_t as in DDPM (``kept_shares``) and e noise of the standard normal distribution that is the sample's own, the
encoder is shown sqrt(a_t) x + sqrt(1 - a_t) e in place of the normalised image x.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.eval.encoders.subject import Subject
from eyespot.pretrain.images.noise import kept_shares, normal_noise


def at_noise(subjects: list[Subject], time: int) -> list[Subject]:
    """The same subjects, shown images with noise.

    Args:
        subjects: of images.
        time: t, 1 to 1,000: DDPM's steps from the image to nothing but noise.
    """
    return [
        replace(subject, tag=f"{subject.tag}-t{time}", noise_level=time, origin={**subject.origin, "noise_level": time})
        for subject in subjects
    ]


def with_noise(
    images: Float[Tensor, "block 3 h w"],
    places: Int64[np.ndarray, " n"],
    ids: Int64[np.ndarray, " n"],
    time: int,
    folder: str,
) -> Float[Tensor, "block 3 h w"]:
    """A copy of the images with each sample's own noise, the same on any number of ranks.

    Args:
        images: normalised.
        places: at which of them the samples stand.
        ids: of the samples.
        time: t, 1 to 1,000.
        folder: digest of the shard folder, in each of which ids begin with 0.
    """
    numbers = torch.from_numpy(ids)
    samples = Batch(views=[], ids=numbers, epochs=torch.zeros_like(numbers), labels=numbers.to(images.device), seed=0)
    noise = normal_noise(samples, f"eval/noise/{folder}", tuple(images.shape[1:]))
    at = torch.from_numpy(places).to(images.device)
    kept = float(kept_shares()[time - 1])
    noisy = images.clone()
    noisy[at] = kept**0.5 * images[at] + (1 - kept) ** 0.5 * noise.to(images.dtype)
    return noisy
