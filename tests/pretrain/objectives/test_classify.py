"""Classify against slow references in float64: heads, loss, gradients; what is frozen stays; every engine alike."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_states import COUNT, make_batch, own_batches, rows_of, whole_state
from step_passes import take_passes

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.engine import DeepSpeedConfig, Settings, make_engine
from eyespot.pretrain.images.mixup import MixConfig
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.networks.heads import AttentivePool
from eyespot.pretrain.objectives.classify import Classify
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer

NUM_CLASSES = 3


def make_classifier(encoder: str = "test_vit", **settings) -> Classify:
    torch.manual_seed(0)
    size = 24 if encoder == "test_resnet" else 16
    config = EncoderConfig(name=encoder, image_size=size, patch_size=4 if encoder == "test_vit" else None)
    classifier = Classify.Config(num_classes=NUM_CLASSES, **settings).build(make_encoder(config), size)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return classifier


def slow_norm(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(0)) / torch.sqrt(((x - x.mean(0)) ** 2).mean(0) + 1e-6)


def slow_attention(pool: AttentivePool, tokens: torch.Tensor) -> torch.Tensor:
    """Query by query, head by head, image by image."""
    tokens = slow_norm(tokens.flatten(0, 1)).view_as(tokens)
    width = tokens.shape[2] // pool.num_heads
    answers = torch.zeros(len(tokens), len(pool.queries), tokens.shape[2], dtype=tokens.dtype)
    for image, own in enumerate(tokens):
        for number, query in enumerate(pool.queries):
            for head in range(pool.num_heads):
                part = slice(head * width, (head + 1) * width)
                keys, values = own @ pool.keys.weight[part].T, own @ pool.values.weight[part].T
                shares = (keys @ query[part] / math.sqrt(width)).exp()
                answers[image, number, part] = (shares / shares.sum()) @ values
    return answers.mean(1)


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("head", ["linear", "batchnorm", "attentive"])
def test_each_head_is_what_it_says(head, encoder):
    classifier = make_classifier(encoder, head=head, **({"num_queries": 2} if head == "attentive" else {})).double()
    images = make_batch(classifier).views[0].double()
    tokens = classifier.encoder.forward_features(images)
    if head == "attentive":
        seen = slow_attention(classifier.pool, tokens if tokens.ndim == 3 else tokens.flatten(2).mT)
    else:
        seen = tokens[:, 0] if tokens.ndim == 3 else tokens.mean((2, 3))
    seen = slow_norm(seen) if head == "batchnorm" else seen
    expected = seen @ classifier.head.weight.T + classifier.head.bias
    assert torch.allclose(classifier.logits(images), expected, rtol=1e-9, atol=1e-9)


def test_attention_has_several_heads_where_it_is_wide_enough():
    pool = AttentivePool(192, 1)
    torch.nn.init.normal_(pool.queries)
    tokens = torch.randn(3, 5, 192, dtype=torch.float64)
    assert pool.num_heads == 3
    assert torch.allclose(pool.double()(tokens), slow_attention(pool, tokens), rtol=1e-9)


def test_mean_sees_the_patches_and_not_the_class_token():
    classifier = make_classifier(pool="mean")
    images = make_batch(classifier).views[0]
    tokens = classifier.encoder.forward_features(images)
    expected = classifier.head(tokens[:, 1:].mean(1))
    assert torch.allclose(classifier.logits(images), expected, rtol=1e-5, atol=1e-6)


def test_loss_and_the_heads_gradient_are_those_of_softmax_regression():
    classifier = make_classifier(mix=MixConfig(smoothing=0.3)).double()
    batch = make_batch(classifier)
    batch = replace(batch, views=[batch.views[0].double()])
    scalars = classifier(batch)
    scalars["loss"].backward()
    features = classifier.encode(batch.views[0]).detach()
    logits = features @ classifier.head.weight.T + classifier.head.bias
    loss, gradient, right = 0.0, torch.zeros_like(classifier.head.weight), 0
    for row, label, feature in zip(logits.detach(), batch.labels, features, strict=True):
        shares = row.exp() / row.exp().sum()
        target = torch.full((NUM_CLASSES,), 0.3 / NUM_CLASSES, dtype=torch.float64)
        target[label] += 0.7
        loss -= float((target * shares.log()).sum()) / COUNT
        gradient += torch.outer(shares - target, feature) / COUNT
        right += int(row.argmax() == label)
    assert scalars["loss"].item() == pytest.approx(loss, rel=1e-7)
    assert torch.allclose(classifier.head.weight.grad, gradient, rtol=1e-6, atol=1e-8)
    assert scalars["accuracy"].item() == pytest.approx(right / COUNT)


def test_images_are_mixed_in_training_only_and_by_torchs_seed():
    classifier = make_classifier(mix=MixConfig(mixup=0.8, cutmix=1.0))
    batch = make_batch(classifier)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return classifier(batch)["loss"].item()

    assert loss(1) == loss(1) != loss(2)
    classifier.eval()
    assert loss(1) == loss(2)


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
def test_what_is_frozen_is_bit_equal_after_training(encoder):
    classifier = make_classifier(encoder, head="batchnorm", frozen=True)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    optimizer = make_optimizer(classifier, OptimConfig(lr=0.1))
    in_optimizer = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not in_optimizer & {id(p) for p in classifier.encoder.parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for seed in range(3):
        classifier.train()
        classifier(make_batch(classifier, seed=seed))["loss"].backward()
        optimizer.step()
    changed = {name for name, tensor in classifier.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not [name for name in changed if name.startswith("encoder.")]
    assert {"head.weight", "head.bias", "norm.running_mean", "norm.running_var"} <= changed


KINDS = {
    "frozen": (dict(head="attentive", frozen=True), OptimConfig(name="sgd", momentum=0.9)),
    "fine-tuned": (dict(mix=MixConfig(mixup=0.8)), OptimConfig(name="sgd", nesterov=True, layer_decay=0.5)),
}


def train_share(world: process_group.World, engines: list[str]) -> dict:
    """The whole state after three steps on this rank's share of each batch."""
    states = {}
    for name in engines:
        for kind, (settings, optim) in KINDS.items():
            engine_name, _, stage = name.partition(" ")
            accumulate = 2 // world.size
            engine = make_engine(
                engine_name,
                make_classifier(**settings),
                world,
                lambda module, optim=optim: make_optimizer(module, optim),
                Settings(accumulate=accumulate, micro_batch_size=3, deepspeed=DeepSpeedConfig(stage=int(stage or 2))),
            )
            for step, batch in enumerate(own_batches(engine, world)):
                parts = [rows_of(batch, rows) for rows in torch.arange(len(batch)).chunk(accumulate)]
                take_passes(
                    engine, [(part, 100 * step + place * world.size + world.rank) for place, part in enumerate(parts)]
                )
                engine.step(0.1)
            states[name, kind] = whole_state(engine)
            engine.close()
    return states


def test_two_ranks_of_any_engine_are_one_process_that_accumulates(on_ranks):
    """Layer decay, frozen encoders and mixing too. The attentive head's norm sees a micro-batch over all ranks."""
    engines = ["ddp", "fsdp", "deepspeed 3"]
    alone = train_share(process_group.World(rank=0, size=1, device=torch.device("cpu")), ["ddp"])
    first, second = on_ranks(train_share, 2, engines)
    for name in engines:
        for kind in KINDS:
            expected = (alone if kind == "fine-tuned" else first)["ddp", kind]
            for state in (first[name, kind], second[name, kind]):
                assert state.keys() == expected.keys()
                for tensor in expected:
                    assert np.allclose(state[tensor], expected[tensor], rtol=1e-4, atol=1e-6), (name, kind, tensor)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, r"objective\.num_classes 1"),
        ({"num_queries": 0}, r"objective\.num_queries 0"),
        ({"head": "attentive", "pool": "mean"}, r"objective\.pool 'mean'"),
    ],
)
def test_wrong_settings_are_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        Classify.Config(**settings)
    assert "\n" not in str(caught.value)


def test_a_norm_needs_two_images():
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        Classify.Config(head="batchnorm").check_batch(1)
