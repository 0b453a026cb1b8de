"""PixelCNN: the loss against slow loops in float64, its gradients against a slow network; what is learned; recipes."""

import itertools
import math

import pytest
import torch
from slow_pixel_cnn import slow_logits

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.lab_color import normalized
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.networks.pixel_cnn.gated_pixel_cnn import GatedPixelCNN
from eyespot.pretrain.objectives.pixel_cnn import PixelCNN
from eyespot.pretrain.recipe_lookup import make_run

COUNT, SIZE = 3, 4


def make_objective() -> PixelCNN:
    torch.manual_seed(0)
    objective = PixelCNN.Config(hidden_dim=9).build(GatedPixelCNN(dim=6, depth=3, kernel_size=3), SIZE).double()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return objective.eval()


def make_batch() -> Batch:
    levels = torch.randint(256, (COUNT, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    ids = torch.arange(COUNT)
    views = [normalized(levels.double() / 255)]
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


@torch.no_grad()
def test_the_loss_is_the_slow_reference():
    """What is said of a number is said from those before it alone: all later ones are something else here."""
    objective, batch, losses = make_objective(), make_batch(), []
    for image in objective.encoder.levels(batch.views[0]):
        numbers = image.permute(1, 2, 0).flatten()
        for place in range(len(numbers)):
            known = torch.cat([numbers[:place], 255 - numbers[place:]])
            logits = objective.logits(known.view(SIZE, SIZE, 3).permute(2, 0, 1)[None]).reshape(-1, 256)[place]
            losses.append(logits.exp().sum().log() - logits[numbers[place]])
    scalars = objective(batch)
    expected = torch.stack(losses).mean().item()
    assert scalars["loss"].item() == pytest.approx(expected, rel=1e-10)
    assert scalars["bits_per_dim"].item() == pytest.approx(expected / math.log(2), rel=1e-10)
    surprises = objective.surprise(batch.views[0])
    assert torch.allclose(surprises.flatten(), torch.stack(losses), rtol=1e-10)


def test_loss_and_gradients_equal_the_slow_network():
    """Masks written out, and each number's logits picked one by one."""
    objective, batch = make_objective(), make_batch()
    names, parameters = zip(*objective.named_parameters(), strict=True)
    levels, losses = objective.encoder.levels(batch.views[0]), []
    logits = slow_logits(objective, levels)
    for image, row, column, color in itertools.product(range(COUNT), range(SIZE), range(SIZE), range(3)):
        own = logits[image, 256 * color : 256 * (color + 1), row, column]
        losses.append(own.logsumexp(0) - own[levels[image, color, row, column]])
    fast, slow = objective(batch)["loss"], torch.stack(losses).mean()
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    gradients = [torch.autograd.grad(loss, parameters) for loss in (fast, slow)]
    for name, ours, theirs in zip(names, *gradients, strict=True):
        assert (ours - theirs).abs().max() <= 1e-12, name
        assert theirs.abs().max() > 1e-8, name


def test_colours_that_follow_from_the_red_ones_cost_nothing():
    """Gray images of any levels: red has to be told, green and blue not any more."""
    torch.manual_seed(0)
    objective = PixelCNN.Config(hidden_dim=48).build(GatedPixelCNN(dim=24, depth=2, kernel_size=3), 2)
    levels = torch.tensor([20, 90, 160, 230])[torch.randint(4, (64, 1, 2, 2))].expand(-1, 3, -1, -1)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        surprise = objective.surprise(normalized(levels / 255))
        surprise.mean().backward()
        optimizer.step()
    red, green, blue = surprise.mean((0, 1, 2)).tolist()
    assert green < 0.1 and blue < 0.1
    assert red > 0.5, "what was drawn at random cannot be told"


def test_a_picture_shows_what_was_likeliest_and_how_much_each_number_told():
    objective, batch = make_objective().float(), make_batch()
    batch.views = [view.float() for view in batch.views]
    images, likeliest, told = objective.picture(batch)
    assert torch.equal(images, batch.views[0])
    expected = objective.logits(objective.encoder.levels(images)).argmax(4).permute(0, 3, 1, 2)
    assert torch.equal(objective.encoder.levels(likeliest), expected)
    bits = (objective.surprise(images) / math.log(2)).permute(0, 3, 1, 2)
    assert torch.allclose(objective.encoder.levels(told) / 255 * 8, bits.clamp(0, 8), atol=0.02)


def test_recipes_have_the_papers_numbers():
    run = make_run("pixel_cnn_in1k")
    assert run.encoder.image_size == 32 and run.steps == 200_000 and run.data.batch_size == 128
    with torch.device("meta"):
        encoder = make_encoder(run.encoder)
    assert len(encoder.blocks) == 20 and encoder.num_features == 384
    assert encoder.blocks[1].vertical.kernel_size == (3, 5) and encoder.blocks[1].horizontal.kernel_size == (1, 3)


def test_a_head_that_three_colours_cannot_share_is_refused():
    with pytest.raises(UserError, match=r"^objective.hidden_dim 100: must be a multiple of 3, .*; try 99$"):
        PixelCNN.Config(hidden_dim=100)


def test_needs_a_gated_pixel_cnn():
    with pytest.raises(UserError, match="PixelCNN needs a gated PixelCNN; try gated_pixel_cnn_tiny"):
        PixelCNN.Config().build(make_encoder(EncoderConfig(name="test_vit", image_size=32)), 32)
