"""A probe of every block: each is the linear probe of that block alone, and the choice is made on held-out train."""

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.subject import subjects_of
from eyespot.eval.evaluate import PROTOCOLS, judge
from eyespot.eval.protocols import layers, linear
from eyespot.eval.protocols.task import Task
from eyespot.eval.results.tables import by_depth
from eyespot.pretrain.distributed.process_group import World


def task_of(train: dict[str, torch.Tensor], test: dict[str, torch.Tensor], labels: torch.Tensor, asked: torch.Tensor):
    return Task(train=train, train_labels=labels, test=test, test_labels=asked, num_classes=3, seed=0)


def test_each_block_has_the_linear_probe_of_its_own_features():
    """The middle block shows the classes; the last ones hide them in noise more and more."""
    labels, asked = torch.arange(120) % 3, torch.arange(60) % 3
    kinds = {"mean": 3.0, "mean-2": 1.0, "mean-3": 0.2, "mean-4": 2.0, "pool": 0.01}
    train, test = (
        {kind: torch.eye(3)[rows] + sigma * torch.randn(len(rows), 3) for kind, sigma in kinds.items()}
        for rows in (labels, asked)
    )
    found = {each.metric: each for each in layers.candidates(task_of(train, test, labels, asked))}
    assert list(found) == [f"layers/block00{block}_mean" for block in (4, 3, 2, 1)]
    for block, kind in ((4, "mean"), (2, "mean-3")):
        alone = linear.probe(task_of({kind: train[kind]}, {kind: test[kind]}, labels, asked), kind)
        one = found[f"layers/block00{block}_mean"]
        assert np.array_equal(one.predictions, alone.predictions) and one.validation == alone.validation
        assert one.settings == {"features": "mean", "block": f"{block} of 4", "lambda": alone.settings["lambda"]}
    assert max(found.values(), key=lambda each: each.validation or 0.0).metric == "layers/block002_mean"


@pytest.mark.parametrize(("name", "kinds", "depth"), [("test_vit", ["cls", "mean"], 6), ("test_resnet", ["mean"], 5)])
def test_of_an_encoder_on_shards(name, kinds, depth, digits, tmp_path):
    world = World(rank=0, size=1, device=torch.device("cpu"))
    random, pixels = judge("layers", name, digits / "test", out=tmp_path, seed=0, pretrained=False, world=world)
    found = by_depth(random)
    assert list(found) == kinds and all(
        [block for block, _ in each] == [*range(1, depth + 1)] for each in found.values()
    )
    assert random.metrics[random.metric] == random.accuracy and str(random.settings["block"]).endswith(f" of {depth}")
    (last, *_) = judge("linear", name, digits / "test", out=tmp_path, seed=0, pretrained=False, world=world)
    for kind, points in found.items():
        assert points[-1][1] == pytest.approx(last.metrics[f"linear/{kind}"], abs=0.01)
    assert pixels.metric == "layers/pixels" and by_depth(pixels) == {}


def test_all_blocks_are_asked_for(digits):
    encoder = subjects_of("test_vit", seed=0, pretrained=False)[0].encoder
    assert PROTOCOLS["layers"].num_blocks > len(encoder.blocks) and ShardFolder(digits / "test").manifest.num_labeled
