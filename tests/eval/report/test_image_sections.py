"""Parts that show images, of a real encoder on real digits."""

import dataclasses

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.report.image_sections import (
    MASK_RATIOS,
    NUM_NEIGHBOURS,
    NUM_VIEWED,
    attention,
    colors,
    neighbours,
    task,
    views,
    whole_objective,
)
from eyespot.eval.report.sample_images import NUM_PICTURED
from eyespot.pretrain.loop.view_sheet import NUM_EPOCHS


def test_an_image_and_its_views_in_three_epochs(look):
    plates = views(look).plates
    assert len(plates) == NUM_VIEWED
    assert plates[0].columns == 1 + NUM_EPOCHS and plates[0].heads[-1] == f"epoch {NUM_EPOCHS}"
    assert len({plate.source for plate in plates}) == NUM_VIEWED


def test_a_reconstruction_for_each_share_of_masks(look):
    found = task(look)
    assert [plate.caption for plate in found.plates] == look.names
    assert {plate.columns for plate in found.plates} == {1 + len(MASK_RATIOS)}
    assert f"{look.run.objective.mask_ratio:.0%} masked" in found.about


def test_patches_and_attention_of_each_picture(look):
    for part in (colors, attention):
        plates = part(look).plates
        assert [plate.caption for plate in plates] == look.names, part
        assert len({plate.source for plate in plates}) == NUM_PICTURED, part
    assert "4 × 4 places" in colors(look).about and "4 × 4 patches" in attention(look).about


def test_neighbours_are_the_most_alike_of_the_bank(look):
    plates, classes = neighbours(look).plates, look.specimens.classes
    bank = look.bank().double()
    bank /= bank.norm(dim=1, keepdim=True)
    places = {sample: place for place, sample in enumerate(look.specimens.mapped.ids.tolist())}
    for plate, sample, name in zip(plates, look.specimens.pictured.ids.tolist(), look.names, strict=True):
        query = look.mapped()[places[sample]].double()
        nearest = (bank @ query).argsort(descending=True)[:NUM_NEIGHBOURS]
        assert plate.caption == f"{name} → {', '.join(classes[look.specimens.bank.labels[row]] for row in nearest)}"


def test_too_few_to_be_neighbours(look):
    look.specimens = dataclasses.replace(look.specimens, bank=look.specimens.bank.at(np.arange(3)))
    with pytest.raises(UserError, match="3 other images are too few"):
        neighbours(look)


def test_the_whole_method_has_the_checkpoints_weights(look):
    objective, encoder = whole_objective(look), look.subject.encoder.state_dict()
    assert not objective.training and not any(parameter.requires_grad for parameter in objective.parameters())
    own = objective.encoder.state_dict()
    assert own.keys() == encoder.keys() and all(torch.equal(own[name], encoder[name]) for name in own)
