"""iGPT: the loss against a slow loop; all images together have probability 1; completions keep what they were given."""

import itertools
import math

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.lab_color import normalized
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.networks.pixel_transformer import PixelTransformer
from eyespot.pretrain.objectives.pixel_gpt import PixelGPT

COUNT, SIZE = 3, 6


def make_objective(side: int = SIZE, num_colors: int = 4) -> PixelGPT:
    torch.manual_seed(0)
    encoder = PixelTransformer(dim=8, depth=2, num_heads=2, img_size=side, palette=torch.rand(num_colors, 3))
    objective = PixelGPT.Config().build(encoder, side).double().eval()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return objective


def make_batch(epoch: int = 0) -> Batch:
    rgb = torch.rand(COUNT, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(COUNT)
    return Batch(views=[normalized(rgb)], ids=ids, epochs=torch.full_like(ids, epoch), labels=ids, seed=0)


@torch.no_grad()
def test_the_loss_is_the_slow_reference():
    """A beginning of each image at a time: what follows it cannot be seen, because it is not there."""
    objective, batch, losses = make_objective(), make_batch(), []
    colors = objective.encoder.colors(batch.views[0])
    for image in colors:
        for place in range(SIZE * SIZE):
            beginning = torch.cat([image[:place], torch.zeros(SIZE * SIZE - place, dtype=torch.int64)])
            logits = objective.head(objective.encoder.last(beginning[None])[0, place])
            losses.append(logits.exp().sum().log() - logits[image[place]])
    assert objective(batch)["loss"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-10)


@torch.no_grad()
def test_all_images_together_have_probability_one():
    objective = make_objective(side=2, num_colors=3)
    images = torch.tensor(list(itertools.product(range(3), repeat=4)))
    chances = objective.logits(images).softmax(2).gather(2, images[..., None])[..., 0].prod(1)
    assert len(chances) == 81
    assert chances.sum().item() == pytest.approx(1, abs=1e-12)
    assert chances.max() > 2 * chances.min()


@torch.no_grad()
def test_completions_are_drawn_from_what_is_said():
    """Of many draws for the last of four pixels, each colour gets the share that the logits give it."""
    objective = make_objective(side=2, num_colors=3)
    given = torch.tensor([[2, 0, 1]]).expand(3000, -1)
    drawn = objective.completed(given, (torch.arange(3000)[:, None] + 0.5) / 3000)
    assert torch.equal(drawn[:, :3], given)
    expected = objective.logits(torch.tensor([[2, 0, 1, 0]]))[0, 3].softmax(0)
    assert torch.allclose(drawn[:, 3].bincount(minlength=3) / 3000, expected.float(), atol=1e-3)


def test_a_picture_goes_on_from_the_upper_half():
    objective, batch = make_objective().float(), make_batch()
    batch.views = [view.float() for view in batch.views]
    given, first, second, images = objective.picture(batch)
    upper, lower = slice(0, SIZE // 2), slice(SIZE // 2, SIZE)
    for row in (given, first, second):
        assert torch.equal(row[:, :, upper], images[:, :, upper])
    assert not torch.equal(first[:, :, lower], second[:, :, lower])
    assert not torch.equal(first[:, :, lower], images[:, :, lower])
    assert torch.equal(objective.picture(batch)[1], first)


def test_a_bright_pixel_is_named_by_its_colour_alone():
    """Images that are all one colour: learned from the second pixel on, and never by the first."""
    objective = make_objective()
    colors = torch.arange(4)[:, None].expand(-1, SIZE * SIZE)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        logits = objective.logits(colors)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), colors.flatten())
        loss.backward()
        optimizer.step()
    errors = -objective.logits(colors).log_softmax(2).gather(2, colors[..., None])[..., 0]
    assert errors[:, 0].mean() > math.log(4) - 0.05
    assert errors[:, 1:].mean() < 0.1


def test_needs_a_pixel_transformer():
    with pytest.raises(UserError, match="iGPT needs a pixel transformer; try pixel_transformer_small"):
        PixelGPT.Config().build(make_encoder(EncoderConfig(name="test_vit", image_size=32)), 32)
