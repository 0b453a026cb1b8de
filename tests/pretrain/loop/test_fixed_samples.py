import numpy as np
import pytest
import torch

from eyespot.data_pipeline.augment.views import CenterView, RandomView, ViewSpec
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop import fixed_samples
from eyespot.pretrain.loop.fixed_samples import FixedSamples
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objective import Objective

CENTER = ViewSpec(views=(CenterView(resize=16, size=16),))
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
IDS = np.array([7, 1200, 3, *range(400, 600)])


class OnlyEncoder(Objective):
    """An objective as far as a monitor looks at it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=16, drop_path=0.5))

    def views(self):
        return CENTER

    def forward(self, batch):
        raise NotImplementedError


def samples(digits, views: ViewSpec = CENTER, world: World = ALONE) -> FixedSamples:
    return FixedSamples(
        LoaderSpec(shards=ShardFolder(digits / "train"), views=views, batch_size=7, num_threads=1), IDS, world
    )


def test_features_are_those_of_the_encoder_in_evaluation_mode(digits):
    objective = OnlyEncoder()
    (found,), labels = samples(digits).encode(objective)
    spec = LoaderSpec(shards=ShardFolder(digits / "train"), views=CENTER, batch_size=2000, num_threads=1)
    (everything,) = make_pass(spec)
    with torch.no_grad():
        expected = objective.eval().encode(everything.views[0][torch.from_numpy(IDS)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    index = ShardFolder(digits / "train").index
    assert labels.tolist() == index["label"][IDS].tolist()


def test_each_view_has_its_features(digits):
    view = RandomView(size=16)
    features, _ = samples(digits, ViewSpec(views=(view, view))).encode(OnlyEncoder())
    assert len(features) == 2 and not torch.equal(*features)


@pytest.mark.parametrize("limit", [0, 2**28])
def test_again_is_the_same_kept_or_not(digits, limit, monkeypatch):
    monkeypatch.setattr(fixed_samples, "KEPT_BYTES", limit)
    objective, chosen = OnlyEncoder(), samples(digits, ViewSpec(views=(RandomView(size=16),)))
    (first,), labels = chosen.encode(objective)
    assert bool(chosen._kept) == (limit > 0)
    (second,), again = chosen.encode(objective)
    assert torch.equal(first, second) and torch.equal(labels, again)


def encode_together(world: World, digits) -> tuple[list, torch.Tensor] | None:
    chosen = samples(digits, ViewSpec(views=(RandomView(size=16), RandomView(size=16))), world)
    objective, calls = OnlyEncoder(), []
    objective.encoder.forward_features = _counted(objective.encoder.forward_features, calls)
    chosen.encode(objective)
    return chosen.encode(objective), len(calls)


def _counted(function, calls: list):
    def call(images):
        calls.append(len(images))
        return function(images)

    return call


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_ranks_share_the_work_and_nothing_changes(digits, size, on_ranks):
    """Two chunks on two ranks, and on three, of which one has nothing to do but must not keep the others waiting."""
    (expected, labels), _ = encode_together(ALONE, digits)
    ((found, same), calls), *others = on_ranks(encode_together, size, digits)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert torch.equal(same, labels)
    assert [answer for answer, _ in others] == [None] * (size - 1)
    assert {number for _, number in others} == {calls} == {4}


def test_the_objective_stays_as_it_was(digits):
    objective = OnlyEncoder().train()
    objective.encoder.bn1.eval()  # one that a method has frozen stays frozen, and only that one
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    modes, generator = [module.training for module in objective.modules()], torch.get_rng_state()
    (found,), _ = samples(digits).encode(objective)
    assert not found.requires_grad and torch.is_grad_enabled()
    assert [module.training for module in objective.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, before[name]), name
