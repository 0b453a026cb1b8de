"""OnlineProbe: what labels say of the encoder while it learns without them."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eyespot.data_pipeline.augment.views import ViewSpec, center_view
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.protocols import knn, linear
from eyespot.eval.protocols.labeled_data import Part, labeled_data
from eyespot.pretrain.distributed.collectives import agreed
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.fixed_samples import FixedSamples
from eyespot.pretrain.loop.run_data import RunData
from eyespot.pretrain.objective import Objective

log = logging.getLogger("eyespot")

MAX_TRAIN, MAX_TEST = 4000, 2000
MAX_CLASSES = 100
"""Of more classes, a random hundred: the probe stays cheap, and each class keeps enough samples to learn from."""
NEIGHBOURS = 20
PENALTY = 1e-2
"""Lambda of the probe. It stays the same all along, so that the curve shows the encoder and not the choice."""


class OnlineProbe:
    """A monitor: accuracy of nearest neighbours and of a linear probe on the encoder's features, whole images.

    Metrics, as shares: ``online/knn`` (20 neighbours, T = 0.07) and ``online/linear`` (lambda = 0.01), learned from up
    to 4,000 labelled training samples and tested on up to 2,000 of ``test/`` or, where there is none, on training
    samples held out here (the encoder has seen those, without their labels). They show where a run is going; what to
    report is measured by ``eyespot eval``, on all data and with hyper-parameters chosen.

    Nothing of this reaches the encoder. Without labels there are no metrics, and the log says so once. The ranks encode
    together; rank 0 judges, the others wait for it at the next step.

    Args:
        data: of the run that is watched.
    """

    def __init__(self, data: RunData) -> None:
        self._data, self._shards = data, data.shards
        self._samples: _Samples | None = None
        self._idle = False

    def __call__(self, objective: Objective, world: World) -> dict[str, float]:
        """The metrics at this step."""
        return self.judged(self.correct(objective, world), world)

    def judged(self, correct: dict[str, Bool[Tensor, " n"]], world: World) -> dict[str, float]:
        """The metrics, once it is known which samples were answered rightly: none, where nothing can be known."""
        return {name: right.double().mean().item() for name, right in correct.items()}

    def correct(self, objective: Objective, world: World) -> dict[str, Bool[Tensor, " n"]]:
        """Which test samples each probe answers rightly; nothing but on rank 0, and where there are no labels.

        Of features that are not finite all answers are missing: tensors without samples, whose mean is nan.
        """
        if self._idle:
            return {}
        try:
            if self._samples is None:
                with agreed():
                    self._samples = _choose(self._data, self._shards, world)
        except UserError as error:
            self._idle = True
            log.info("no online probe: %s", error)
            return {}
        return self._samples.judge(objective)


@dataclass(kw_only=True, slots=True)
class _Samples:
    train: FixedSamples
    test: FixedSamples
    classes: Int[Tensor, " c"]
    """The labels that occur, ascending."""

    def judge(self, objective: Objective) -> dict[str, Bool[Tensor, " n"]]:
        encoded = [samples.encode(objective) for samples in (self.train, self.test)]
        known = [self._of_known_class(*part) for part in encoded if part is not None]
        if not known:
            return {}
        (train, train_classes), (test, test_classes) = known
        if not (train.isfinite().all() and test.isfinite().all()):
            return dict.fromkeys(("online/knn", "online/linear"), torch.zeros(0, dtype=torch.bool))
        num_classes, k = len(self.classes), min(NEIGHBOURS, len(train))
        answers = {
            "online/knn": knn.vote(test, train, train_classes, num_classes=num_classes, ks=(k,))[k],
            "online/linear": linear.predictions(train, train_classes, test, num_classes=num_classes, penalty=PENALTY),
        }
        return {name: (answer == test_classes).cpu() for name, answer in answers.items()}

    def _of_known_class(
        self, features: list[Float[Tensor, "_ d"]], labels: Int[Tensor, " _"]
    ) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
        """What stands in for a damaged sample may be of another class."""
        classes = self.classes.to(labels.device)
        known = torch.isin(labels, classes)
        return features[0][known], torch.searchsorted(classes, labels[known])


def _choose(watched: RunData, shards: ShardFolder, world: World) -> _Samples:
    run = watched.run
    data = labeled_data(shards, run.seed)
    data.test.shards.check()
    generator = np.random.default_rng(run.seed)
    classes = np.unique(data.train.labels)
    if len(classes) > MAX_CLASSES:
        classes = np.sort(generator.permutation(np.unique(data.test.labels))[:MAX_CLASSES])

    def some(part: Part, count: int) -> FixedSamples:
        rows = generator.permutation(part.rows[np.isin(part.labels, classes)])[:count]
        views = ViewSpec(views=(center_view(run.encoder.image_size),))
        return FixedSamples(watched.loader_spec(views, part.shards), np.sort(rows), world)

    train, test = some(data.train, MAX_TRAIN), some(data.test, MAX_TEST)
    return _Samples(train=train, test=test, classes=torch.from_numpy(classes))
