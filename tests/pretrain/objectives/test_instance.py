"""NPID against a slow reference in float64, image by image and negative by negative, written from the paper."""

import math

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.instance import Instance, log_mean_exp

SIZE, BATCH = 16, 5
IDS = torch.tensor([1, 4, 6, 7, 9, 11, 15, 20, 30])
"""Of the samples that the run learns from: not all there are."""


def make_instance(encoder: str = "test_vit", **changes) -> Instance:
    torch.manual_seed(0)
    config = EncoderConfig(name=encoder, image_size=SIZE, patch_size=4 if encoder == "test_vit" else None)
    instance = Instance.Config(**({"out_dim": 8, "num_negatives": 7} | changes)).build(make_encoder(config), SIZE)
    instance.prepare(IDS)
    instance = instance.double()
    instance.bank.vectors = torch.nn.functional.normalize(instance.bank.vectors, dim=1)  # to the digits of its type
    return instance


def make_batch(step: int = 0) -> Batch:
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    ids = IDS[torch.randperm(len(IDS), generator=torch.Generator().manual_seed(step))[:BATCH]]
    return Batch(views=[images], ids=ids, epochs=torch.full_like(ids, step), labels=ids, seed=0)


def slow_loss(instance: Instance, batch: Batch) -> torch.Tensor:
    config, bank = instance.config, instance.bank.vectors
    draws = batch.uniforms("instance", config.num_negatives) if config.num_negatives else torch.zeros(BATCH, 0)
    constant = len(IDS) * math.exp(log_mean_exp(config.out_dim, config.temperature))  # Z
    losses = []
    for image, number, drawn in zip(batch.views[0], batch.ids.tolist(), draws.double(), strict=True):
        f = instance.head(instance.encode(image[None]))[0]
        f = f / f.norm()
        own = bank[IDS.tolist().index(number)]

        def score(row, f=f):
            return torch.exp(row @ f / config.temperature)

        if config.num_negatives:
            noise = config.num_negatives / len(IDS)
            h = score(own) / constant / (score(own) / constant + noise)
            loss = -torch.log(h)
            for draw in drawn:
                p = score(bank[int(draw * len(IDS))]) / constant
                loss = loss - torch.log(1 - p / (p + noise))
        else:
            loss = -torch.log(score(own) / sum(score(row) for row in bank))
        losses.append(loss + config.proximal * (f - own).square().sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("changes", [{"temperature": 0.5}, {"proximal": 3.0}, {"num_negatives": 0}])
def test_loss_and_gradients_equal_the_slow_reference(encoder, changes):
    instance = make_instance(encoder, **changes).eval()  # or batch norm would see other images in the reference
    instance(make_batch(1))["loss"].backward()
    instance.after_step(0.1)
    instance.zero_grad()
    batch = make_batch(2)
    fast, slow = instance(batch)["loss"], slow_loss(instance, batch)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-10)
    parameters = list(instance.parameters())
    pairs = zip(torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True)
    assert all(torch.allclose(one, other, rtol=1e-8, atol=1e-9) for one, other in pairs)


def test_the_cosines_are_those_with_rows_of_the_bank():
    """Of an image with its own row and with those of the batch's others: no output is compared with an output."""
    instance = make_instance().eval()
    batch = make_batch(3)
    said = {name: value.detach() for name, value in instance(batch).items()}
    outputs = torch.nn.functional.normalize(instance.head(instance.encode(batch.views[0])), dim=1).detach()
    rows = instance.bank.vectors[[IDS.tolist().index(number) for number in batch.ids.tolist()]]
    cosines = [[float(one @ other) for other in rows] for one in outputs]
    own = [cosines[place][place] for place in range(BATCH)]
    others = [cosines[i][j] for i in range(BATCH) for j in range(BATCH) if i != j]
    assert said["positive_similarity"].item() == pytest.approx(sum(own) / len(own), rel=1e-10)
    assert said["negative_similarity"].item() == pytest.approx(sum(others) / len(others), rel=1e-10)


@pytest.mark.parametrize(("dim", "temperature"), [(128, 0.07), (16, 0.2)])
def test_the_constant_is_what_a_random_bank_gives(dim, temperature):
    generator = torch.Generator().manual_seed(0)
    bank = torch.nn.functional.normalize(torch.randn(200_000, dim, generator=generator), dim=1)
    f = torch.nn.functional.normalize(torch.randn(dim, generator=generator), dim=0)
    measured = torch.exp(bank @ f / temperature).mean().item()
    assert math.exp(log_mean_exp(dim, temperature)) == pytest.approx(measured, rel=0.02)


def test_the_bank_follows_after_the_step_and_only_then():
    instance, batch = make_instance(), make_batch()
    before = instance.bank.vectors.clone()
    instance(batch)["loss"].backward()
    assert torch.equal(instance.bank.vectors, before)
    with torch.no_grad():
        outputs = torch.nn.functional.normalize(instance.head(instance.encode(batch.views[0])), dim=1)
        instance(make_batch(3))  # a look: nothing of it is held back
    instance.after_step(0.5)
    for number, output in zip(batch.ids.tolist(), outputs, strict=True):
        row = IDS.tolist().index(number)
        moved = 0.5 * before[row] + 0.5 * output
        assert torch.allclose(instance.bank.vectors[row], moved / moved.norm(), atol=1e-12)
    unseen = [row for row, number in enumerate(IDS.tolist()) if number not in batch.ids.tolist()]
    assert torch.equal(instance.bank.vectors[unseen], before[unseen])


def test_negatives_are_drawn_anew_in_each_epoch():
    instance, batch, other = make_instance(), make_batch(), make_batch()
    other.epochs = other.epochs + 1
    with torch.no_grad():
        assert instance(batch)["loss"] == instance(make_batch())["loss"] != instance(other)["loss"]


def test_the_bank_is_part_of_the_checkpoint():
    assert {"bank.ids", "bank.vectors"} <= set(make_instance().state_dict())


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", 0.0), ("momentum", 1.0), ("num_negatives", -1), ("proximal", -0.1)]
)
def test_wrong_numbers_name_their_field(field, value):
    with pytest.raises(UserError, match=rf"objective\.{field} {value}"):
        Instance.Config(**{field: value})
