"""Inpainting: what is hidden stays hidden; the losses, and each player's gradients, against a slow reference."""

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.inpainting import Inpainting

COUNT, SIZE = 4, 32
REGIONS = pytest.mark.parametrize("region", ["centre", "blocks"])


def make_objective(**changes) -> Inpainting:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=8))
    return Inpainting.Config(hidden_dim=16, discriminator_dim=8, **changes).build(encoder, SIZE).double()


def make_batch(first: int = 0, count: int = COUNT) -> Batch:
    images = torch.randn(COUNT, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).double()
    ids = torch.arange(COUNT)[first : first + count]
    return Batch(views=[images[ids]], ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def slow_parts(objective: Inpainting, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Error, discriminator's loss and maker's loss, image by image and pixel by pixel, for two backward passes."""
    errors, its, makers = [], [], []
    for number, image in enumerate(batch.views[0]):
        hole = objective.holes(make_batch(number, 1))[0, 0]
        seen = image.clone()
        for row, column in hole.nonzero().tolist():
            seen[:, row, column] = 0
        tokens = objective.encoder.forward_features(seen[None])[0, 1:]
        decoded = objective.decoder(tokens.T.reshape(1, -1, SIZE // 8, SIZE // 8))[0]
        terms = []
        for row in range(SIZE):
            for column in range(SIZE):
                near = hole[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].any()  # 1 pixel of 32 overlaps
                if near:
                    squares = (decoded[:, row, column] - image[:, row, column]) ** 2
                    terms.append(squares.mean() * (1 if hole[row, column] else 10))
        errors.append(torch.stack(terms).mean())
        if objective.config.region == "centre":
            image, decoded = (whole[:, 8:24, 8:24] for whole in (image, decoded))
        real, made, held = (objective.discriminator(x[None]).sigmoid() for x in (image, decoded, decoded.detach()))
        its.append(-real.log() - (1 - held).log())
        makers.append(-made.log())
    return tuple(torch.stack(parts).mean() for parts in (errors, its, makers))


@REGIONS
def test_losses_and_gradients_equal_those_of_two_backward_passes(region):
    objective, batch = make_objective(region=region, adversarial=0.2), make_batch()
    scalars = objective(batch)
    scalars["loss"].backward()
    error, its, makers = slow_parts(objective, batch)
    for name, expected in (("error", error), ("discriminator", its), ("maker", makers), ("loss", 0.8 * error + its)):
        assert scalars[name].item() == pytest.approx(expected.item(), rel=1e-9), name
    players = [(objective.discriminator, its), (objective.encoder, 0.8 * error + 0.2 * makers)]
    players.append((objective.decoder, players[1][1]))
    for player, loss in players:
        names, parameters = zip(*player.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        for name, parameter, expected in zip(names, parameters, gradients, strict=True):
            assert torch.allclose(parameter.grad, expected, rtol=1e-8, atol=1e-12), name


def test_the_centre_region_is_half_the_side_and_its_border_is_visible():
    hole = make_objective().holes(make_batch())
    assert hole.shape == (COUNT, 1, SIZE, SIZE)
    assert hole[:, :, 9:23, 9:23].all()
    assert hole.sum() == COUNT * 14 * 14


def test_blocks_lie_anywhere_and_are_the_samples_own():
    objective = make_objective(region="blocks")
    holes = objective.holes(make_batch())
    assert torch.equal(objective.holes(make_batch(2, 2)), holes[2:])
    later = make_batch()
    later.epochs = later.epochs + 1
    assert not torch.equal(objective.holes(later), holes)
    ids = torch.arange(2000)
    many = Batch(views=[torch.empty(2000, 3, 1, 1)], ids=ids, epochs=ids * 0, labels=ids, seed=0)
    covered = objective.holes(many)[:, 0]
    assert covered.sum((1, 2)).min() >= 64
    assert covered.sum((1, 2)).max() <= SIZE * SIZE // 4
    share = covered.double().mean(0)
    for corner in (share[0, 0], share[0, -1], share[-1, 0], share[-1, -1]):  # each of 4 blocks has 25 x 25 places
        assert corner.item() == pytest.approx(1 - (1 - 1 / 625) ** 4, abs=4 * (0.0064 / 2000) ** 0.5)


@REGIONS
def test_what_the_hole_hides_changes_nothing_that_is_made(region):
    objective, batch = make_objective(region=region), make_batch()
    images, holes = batch.views[0], objective.holes(batch)
    with torch.no_grad():
        changed = objective.decode(torch.where(holes, 9.0, images), holes)
        assert torch.equal(changed, objective.decode(images, holes))


def test_without_adversary_there_is_none():
    objective = make_objective(adversarial=0.0)
    scalars = objective(make_batch())
    assert objective.discriminator is None
    assert scalars.keys() == {"loss"}
    assert scalars["loss"].item() == make_objective()(make_batch())["error"].item()


def test_a_picture_shows_hole_filling_and_whole():
    objective, batch = make_objective(), make_batch()
    seen, filled, whole = objective.picture(batch)
    hole = objective.holes(batch).expand_as(whole)
    assert torch.equal(whole, batch.views[0].float())
    assert torch.equal(filled[~hole], whole[~hole])
    assert torch.equal(seen[~hole], whole[~hole])
    assert not seen[hole].any()
    assert not torch.isclose(filled[hole], whole[hole]).all()


def test_wrong_numbers_name_their_field():
    for changes in ({"adversarial": 1.0}, {"hidden_dim": 0}, {"discriminator_dim": 0}):
        with pytest.raises(UserError, match=f"objective.{next(iter(changes))}"):
            Inpainting.Config(**changes)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=4, patch_size=4))
    with pytest.raises(UserError, match=r"encoder\.image_size 4"):
        Inpainting.Config().build(encoder, 4)
