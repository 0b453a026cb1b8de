"""What the gates ask of methods whose towers meet in one space: of each unseen sample one number."""

import numpy as np
import torch
from gates import Case, Found, chance
from jaxtyping import Float
from members.captioned import SETS
from torch import Tensor

from eyespot.data_pipeline.augment.views import TextView, ViewSpec, center_view
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer

PIXELS = "nearest class mean of pixels"


def class_means(case: Case, view: ViewSpec) -> Float[Tensor, "classes pixels"]:
    """The mean training image of each class."""
    sums = counts = torch.zeros(1)
    for batch in case.batches(1, view, case.learned):
        of_class = torch.nn.functional.one_hot(batch.labels, len(case.learned.manifest.classes)).float()
        sums, counts = sums + of_class.T @ batch.views[0].flatten(1), counts + of_class.sum(0)
    return sums / counts[:, None]


def naming(case: Case) -> Found:
    """Whether an image is nearest to the mean of the sentences about its own class.

    The captions were the very sentences, so each image's class was told in training. Beside it: who was told as much,
    and names the class whose training images have the nearest mean, pixel by pixel.
    """
    captioned = next(each for name, each in SETS.items() if name in case.unseen.path.parts)
    objective = case.objectives["trained"]
    _, text = objective.views().views
    assert isinstance(text, TextView)
    tokens = load_tokenizer(text.tokenizer, text.context)
    names = [name.replace("_", " ") for name in case.unseen.manifest.classes]
    prompts = torch.from_numpy(tokens([each.format(name) for name in names for each in captioned.sentences]))
    view = case.normalized(ViewSpec(views=(center_view(objective.image_size),)))
    means = class_means(case, view)
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*case.objectives, PIXELS)}
    with torch.inference_mode():
        classes = {
            who: torch.nn.functional.normalize(
                each.embed_joint("text", prompts).unflatten(0, (len(names), -1)).mean(1), dim=1
            )
            for who, each in case.objectives.items()
        }
        for batch in case.batches(1, view):
            nearest = torch.cdist(batch.views[0].flatten(1), means).argmin(1)
            found[PIXELS].append((nearest == batch.labels).double().numpy())
            for who, each in case.objectives.items():
                said = (each.embed_joint("image", batch.views[0]) @ classes[who].T).argmax(1)
                found[who].append((said == batch.labels).double().numpy())
    return chance({who: np.concatenate(parts) for who, parts in found.items()}, 1 / len(names))
