"""Exemplars: the class is the image, wherever its view lies in the batch; the loss against a slow reference."""

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.exemplar import MAX_EXEMPLARS, Exemplar

SIZE, VIEWS = 16, 3
IDS = torch.tensor([3, 10, 12, 40, 41])


def make_exemplar() -> Exemplar:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    exemplar = Exemplar.Config(num_views=VIEWS).build(encoder, SIZE)
    exemplar.prepare(IDS)
    return exemplar.double()


def make_batch(ids: torch.Tensor) -> Batch:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(len(ids), 3, SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(VIEWS)]
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=torch.zeros_like(ids), seed=0)


def test_the_loss_is_the_slow_reference():
    exemplar, batch = make_exemplar(), make_batch(torch.tensor([40, 3, 41]))
    losses = []
    for place, number in enumerate(batch.ids.tolist()):
        for view in batch.views:
            logits = exemplar.head(exemplar.encode(view[place][None]))[0]
            losses.append(logits.exp().sum().log() - logits[IDS.tolist().index(number)])
    assert exemplar(batch)["loss"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-10)


def test_the_answer_is_the_image_and_not_its_place():
    """Each image's logits are read off its own row, in whatever order the images come."""
    exemplar = make_exemplar()
    with torch.no_grad():
        exemplar.head.weight.zero_()
        exemplar.head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 9.0, 0.0]))  # always says sample 40
    assert exemplar(make_batch(torch.tensor([40])))["accuracy"] == 1
    assert exemplar(make_batch(torch.tensor([3, 41, 10])))["accuracy"] == 0
    assert exemplar(make_batch(torch.tensor([3, 40])))["accuracy"] == 0.5


def test_there_is_a_class_for_each_chosen_sample():
    exemplar = make_exemplar()
    assert exemplar.head.out_features == len(IDS)
    assert torch.equal(exemplar.state_dict()["ids"], IDS)
    assert len(exemplar.views().views) == VIEWS


def test_too_many_images_are_one_line_with_a_way_out():
    exemplar = make_exemplar()
    with pytest.raises(UserError, match=r"data\.ids: 100001 images .* the method instance") as caught:
        exemplar.prepare(torch.arange(MAX_EXEMPLARS + 1))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"objective\.num_views 0"):
        Exemplar.Config(num_views=0)
