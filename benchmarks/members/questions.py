"""What the gates ask of methods whose towers meet in one space: of each unseen sample one number.

They are the questions of ``eyespot eval zero-shot``, ``joint-retrieval`` and ``correspondence``, with their functions.
"""

from collections.abc import Iterator

import numpy as np
import torch
from gates import Case, Found, chance
from jaxtyping import Float
from members.captioned import SETS
from torch import Tensor

from eyespot.data_pipeline.augment.views import TextView, ViewSpec, center_view
from eyespot.eval.joint.pair_ranks import false_partners, found_first, ranks, true_and_false
from eyespot.eval.joint.pairs import judged_ids
from eyespot.eval.joint.prompts import prompt_tokens
from eyespot.eval.joint.towers import Side, embed_images, embed_pairs, embed_texts, still_views
from eyespot.eval.joint.zero_shot import class_vectors, nearest_classes
from eyespot.eval.own_head import Asked
from eyespot.pretrain.distributed.process_group import World

ONE = World(rank=0, size=1, device=torch.device("cpu"))


def asked_of(case: Case) -> Iterator[Asked]:
    """Both objectives of a case, shown still views."""
    for who, objective in case.objectives.items():
        views = case.normalized(still_views(objective))
        yield Asked(name=who, tag=who, role="encoder", objective=objective, views=views, settings="")


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
    shards, found = case.unseen, Found()
    names = [name.replace("_", " ") for name in shards.manifest.classes]
    ids = np.arange(shards.manifest.num_samples) if case.ids is None else case.ids
    labels = shards.index["label"][ids]
    for asked in asked_of(case):
        text = asked.views.views[1]
        assert isinstance(text, TextView)
        prompts = prompt_tokens(names, captioned.sentences, text)
        with torch.inference_mode():
            vectors = embed_texts(asked.objective, prompts.reshape(-1, text.context), ONE)
            classes = class_vectors(vectors.unflatten(0, prompts.shape[:2]))
            said = [nearest_classes(images, classes)[:, 0] for _, images in embed_images(asked, shards, ids, ONE)]
        found[asked.name] = (torch.cat(said).numpy() == labels).astype(float)
    view = case.normalized(ViewSpec(views=(center_view(case.objectives["trained"].image_size),)))
    means = class_means(case, view)
    nearest = [torch.cdist(batch.views[0].flatten(1), means).argmin(1) for batch in case.batches(1, view)]
    return chance(found | {PIXELS: (torch.cat(nearest).numpy() == labels).astype(float)}, 1 / len(names))


def finding(case: Case, *, k: int, image_asks: bool) -> Found:
    """Whether an image finds what is beside it among the first k of all; or how much of that finds the image."""
    found, by_chance = Found(), 0.0
    for who, image, other in _sides(case):
        placed = ranks(image, other, image_asks=image_asks)
        owners = (image if image_asks else other).owners
        found[who] = found_first(placed, owners, k)
        by_chance = placed.by_chance(owners, k)
    return chance(found, by_chance)


def true_pairs(case: Case) -> Found:
    """Whether an image is nearer to what is beside it than to what is beside another."""
    found = Found()
    for who, image, other in _sides(case):
        ids = np.arange(len(image.owners))
        true, false = true_and_false(image, other, false_partners(image, other, ids, len(ids), 1))
        found[who] = (true > false).astype(float)
    return chance(found, 0.5)


def _sides(case: Case) -> Iterator[tuple[str, Side, Side]]:
    for asked in asked_of(case):
        ids = judged_ids(case.unseen, asked.views, case.unseen.manifest.num_samples)
        image, other = embed_pairs(asked, case.unseen, ids, ONE) or ()
        yield asked.name, image, other
