"""The same rows are held out as in memory, of many so many by lot."""

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.protocols.many_rows import streamed_task
from eyespot.eval.protocols.many_rows.streamed_task import StreamedTask
from eyespot.eval.protocols.task import Task
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def task(labels, seed=3):
    known = {"test_labels": labels[:1], "num_classes": 4, "seed": seed, "world": ALONE}
    return StreamedTask(train={}, train_labels=labels, test={}, **known)


def test_as_in_memory(monkeypatch):
    labels = np.random.default_rng(0).integers(0, 4, 500)
    in_memory = Task(
        train={},
        train_labels=torch.from_numpy(labels),
        test={},
        test_labels=torch.from_numpy(labels),
        num_classes=4,
        seed=3,
    )
    whole = task(labels)
    assert whole.fit.tolist() == in_memory.fit.tolist() and whole.held.tolist() == in_memory.held.tolist()
    monkeypatch.setattr(streamed_task, "MOST_HELD", 20)
    few = task(labels)
    assert len(few.held) == 20 and set(few.held) < set(whole.held) and few.fit.tolist() == whole.fit.tolist()
    assert (np.diff(few.held) > 0).all() and task(labels, 4).held.tolist() != few.held.tolist()


def test_too_few():
    with pytest.raises(UserError, match="at least 5 per class"):
        task(np.arange(4))
