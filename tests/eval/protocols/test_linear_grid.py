import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from eyespot.eval.evaluate import judge
from eyespot.eval.protocols import linear_grid
from eyespot.eval.protocols.linear_grid import Setting
from eyespot.eval.protocols.task import Task
from eyespot.pretrain.distributed.process_group import World

FEW = [Setting(rate=0.02, decay=0.0), Setting(rate=0.1, decay=5e-2), Setting(rate=1e-3, decay=5e-4)]


@pytest.fixture(scope="module")
def pixels():
    """scikit-learn's digits as float64 features, and their labels."""
    values, labels = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(labels))
    return torch.from_numpy((values[rows] / 16 - 0.3) / 0.37), torch.from_numpy(labels[rows]).long()


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(linear_grid, "MAX_EPOCHS", 8)
    monkeypatch.setattr(linear_grid, "BATCH_SIZE", 128)


def test_a_head_of_the_grid_equals_the_same_head_trained_alone(pixels, short):
    features, labels = {"cls": pixels[0][:500, :32], "mean": pixels[0][:500, 32:]}, pixels[1][:500]
    sets = linear_grid.feature_sets(list(features))
    options = {"num_classes": 10, "seed": 3}
    together = linear_grid.train(features, labels, sets=sets, settings=FEW, **options)
    for name, parts in sets.items():
        for place, setting in enumerate(FEW):
            alone = linear_grid.train(features, labels, sets={name: parts}, settings=[setting], **options)[name]
            x = linear_grid.side_by_side(features, parts)
            torch.testing.assert_close(together[name].logits(x)[:, place], alone.logits(x)[:, 0], rtol=0, atol=1e-12)
            assert alone.logits(x).abs().max() > 1e-3


@pytest.mark.parametrize("setting", FEW)
def test_a_head_is_what_torch_trains(pixels, short, setting):
    """nn.Linear, autograd, torch's SGD and cosine schedule, one head."""
    x, labels = pixels[0][:500], pixels[1][:500]
    head = torch.nn.Linear(64, 10, dtype=torch.float64)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    groups = [{"params": [head.weight], "weight_decay": setting.decay}, {"params": [head.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=setting.rate * 128 / 256, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, linear_grid.num_steps(500))
    for rows in linear_grid.batches(500, seed=3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(x[rows]), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    found = linear_grid.train({"cls": x}, labels, sets={"cls": ("cls",)}, settings=[setting], num_classes=10, seed=3)
    torch.testing.assert_close(found["cls"].logits(x)[:, 0], head(x).detach(), rtol=0, atol=1e-12)


def test_batches(monkeypatch):
    monkeypatch.setattr(linear_grid, "BATCH_SIZE", 64)
    found = list(linear_grid.batches(100, seed=0))
    assert len(found) == linear_grid.num_steps(100) == math.ceil(linear_grid.MAX_EPOCHS * 100 / 64)
    assert {len(rows) for rows in found} == {64}
    order = torch.cat(found)
    for epoch in order[:9900].view(99, 100):  # each epoch sees every row once
        assert (epoch.sort().values == torch.arange(100)).all()
    assert (order == torch.cat(list(linear_grid.batches(100, seed=0)))).all()
    assert (order != torch.cat(list(linear_grid.batches(100, seed=1)))).any()
    assert len(next(linear_grid.batches(10, seed=0))) == 10
    assert linear_grid.num_steps(10_000_000) == linear_grid.MAX_STEPS


def test_feature_sets():
    four = [f"{kind}{place}" for kind in ("cls", "mean") for place in ("", "-2", "-3", "-4")]
    found = linear_grid.feature_sets(four)
    assert list(found) == ["cls", "mean", "cls+mean", "cls_4blocks", "mean_4blocks", "cls_4blocks+mean"]
    assert found["cls+mean"] == ("cls", "mean") and found["cls_4blocks"] == ("cls", "cls-2", "cls-3", "cls-4")
    assert found["cls_4blocks+mean"] == (*found["cls_4blocks"], "mean")
    assert linear_grid.feature_sets(["mean", "mean-2"]) == {"mean": ("mean",)}  # fewer than four blocks
    assert linear_grid.feature_sets(["pixels"]) == {"pixels": ("pixels",)}


def task_of(features, labels, num_train):
    train, test = slice(0, num_train), slice(num_train, None)
    return Task(
        train={"pixels": features[train].float()},
        train_labels=labels[train],
        test={"pixels": features[test].float()},
        test_labels=labels[test],
        num_classes=10,
        seed=0,
    )


def test_chosen_on_the_held_out_tenth(pixels, short):
    features, labels = pixels
    task = task_of(features, labels, 1000)
    (found,) = linear_grid.candidates(task)
    assert found.metric == "linear-grid/pixels" and (found.validation or 0) > 0.85
    assert (found.predictions == labels[1000:].numpy()).mean() > 0.88
    task.test_labels = torch.zeros_like(task.test_labels)  # the answer does not know the test labels
    (again,) = linear_grid.candidates(task)
    assert again.settings == found.settings and (again.predictions == found.predictions).all()
    # it learned from the nine tenths alone: other labels of the tenth change the choice at most
    heads = linear_grid.train(
        {"pixels": task.train["pixels"][task.fit]},
        task.train_labels[task.fit],
        sets={"pixels": ("pixels",)},
        settings=[Setting(rate=float(found.settings["rate"]), decay=float(found.settings["decay"]))],
        num_classes=10,
        seed=0,
    )
    alone = linear_grid.predict(heads["pixels"], task.test, ("pixels",))[0].numpy()
    assert (alone == found.predictions).mean() > 0.995


def test_rates_too_large_are_not_chosen(pixels, short):
    task = task_of(pixels[0] * 1e4, pixels[1], 600)
    (found,) = linear_grid.candidates(task)
    assert (
        float(found.settings["rate"]) < linear_grid.RATES[-1]
        and (found.predictions == pixels[1][600:].numpy()).mean() > 0.7
    )


def test_of_an_encoder_on_shards(digits, tmp_path, short):
    world = World(rank=0, size=1, device=torch.device("cpu"))
    result, *_ = judge("linear-grid", "test_vit", digits / "test", out=tmp_path, seed=0, pretrained=False, world=world)
    blocks = [f"{kind}{place}" for kind in ("cls", "mean") for place in ("", "-2", "-3", "-4")]
    assert set(result.metrics) == {f"linear-grid/{name}" for name in linear_grid.feature_sets(blocks)}
    assert result.accuracy is not None and result.accuracy > 0.1
    assert set(result.settings) == {"features", "rate", "decay"}
