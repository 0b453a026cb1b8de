"""What the gate asks of methods that foretell captions: of each unseen one, how many nats a token it takes."""

from dataclasses import replace

import numpy as np
from gates import Case, Found

from eyespot.data_pipeline.augment.views import TextView, ViewSpec, center_view
from eyespot.eval.captions import asked_of_each, counted


def foretold(case: Case) -> Found:
    """Beside the own image, beside another's, and by a table of counted words."""
    objective = case.objectives["trained"]
    _, text = objective.views().views
    assert isinstance(text, TextView)
    own = center_view(objective.image_size)
    views = case.normalized(ViewSpec(views=(own, replace(own, partner=True), text)))
    table, found = counted(case.learned, text), dict[str, list[np.ndarray]]()
    for batch in case.batches(1, views):
        image, other, ids = batch.views
        asked = {who: (each, image) for who, each in case.objectives.items()}
        asked["others' images"] = objective, other
        for who, (each, shown) in asked.items():
            likelihoods, counts = each.caption_log_likelihood(replace(batch, views=[shown, ids]))
            found.setdefault(who, []).append((-likelihoods / counts).double().numpy())
        tokens, lengths = ids.numpy(), counts.numpy()
        surprise = -np.where(asked_of_each(tokens, lengths), table[tokens], 0.0).sum(1)
        found.setdefault("counted words", []).append(surprise / lengths)
    return {who: np.concatenate(parts) for who, parts in found.items()}
