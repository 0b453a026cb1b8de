"""What the gates ask of methods whose towers meet in one space: of each unseen sample one number."""

import numpy as np
import torch
from gates import Case, Found, chance
from members.captioned import SETS

from eyespot.data_pipeline.augment.views import TextView, ViewSpec, center_view
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer


def naming(case: Case) -> Found:
    """Whether an image is nearest to the mean of the sentences about its own class."""
    captioned = next(each for name, each in SETS.items() if name in case.unseen.path.parts)
    objective = case.objectives["trained"]
    _, text = objective.views().views
    assert isinstance(text, TextView)
    tokens = load_tokenizer(text.tokenizer, text.context)
    names = [name.replace("_", " ") for name in case.unseen.manifest.classes]
    prompts = torch.from_numpy(tokens([each.format(name) for name in names for each in captioned.sentences]))
    found: dict[str, list[np.ndarray]] = {name: [] for name in case.objectives}
    with torch.inference_mode():
        classes = {
            who: torch.nn.functional.normalize(
                each.embed_joint("text", prompts).unflatten(0, (len(names), -1)).mean(1), dim=1
            )
            for who, each in case.objectives.items()
        }
        for batch in case.batches(1, case.normalized(ViewSpec(views=(center_view(objective.image_size),)))):
            for who, each in case.objectives.items():
                said = (each.embed_joint("image", batch.views[0]) @ classes[who].T).argmax(1)
                found[who].append((said == batch.labels).double().numpy())
    return chance({who: np.concatenate(parts) for who, parts in found.items()}, 1 / len(names))
