"""Parts that show images, of a real encoder on real digits."""

import dataclasses

import numpy as np
import pytest
import torch
from released_runs import write_run

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.report.encoder_sections import look_at
from eyespot.eval.report.image_sections import (
    MASK_RATIOS,
    NUM_NEIGHBOURS,
    NUM_VIEWED,
    attention,
    colors,
    neighbours,
    similarity,
    task,
    views,
    whole_objective,
)
from eyespot.eval.report.run_data import read_stories
from eyespot.eval.report.sample_images import NUM_PICTURED
from eyespot.pretrain.checkpoints.folders import newest
from eyespot.pretrain.checkpoints.reader import Meta, read_module
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.loop.view_sheet import NUM_EPOCHS
from eyespot.pretrain.recipe_lookup import make_run


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


def test_similarity_to_a_patch_over_checkpoints_and_the_gram_teacher(look, digits, tmp_path):
    found = similarity(look)
    assert [plate.caption for plate in found.plates] == look.names
    assert found.plates[0].heads == ["image", f"step {int(look.checkpoint.name[5:])}"] and "change" not in found.about
    run = make_run("dinov3_tiny")
    run.data.shards = str(digits)
    folder = write_run(tmp_path / "run", run=run)
    tensors = {f"model.{name}": tensor + 0.1 for name, tensor in read_module(newest(folder)).items()}
    for name in tensors:
        if name.startswith("model.gram_teacher."):
            tensors[name] += 0.1 * torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0))
    meta = Meta(step=20, loader={"samples_consumed": 5120}, world_size=2, run_key="key", engine="ddp")
    CheckpointWriter(folder, keep=2).save(tensors, meta, wait=True)
    (story,) = read_stories([folder])
    with_gram = look_at(story, lambda said: None, torch.device("cpu"))
    found = similarity(with_gram)
    assert (
        found.plates[0].heads[1:] == ["Gram teacher", "step 12", "step 20"]
        and len({plate.source for plate in found.plates}) == NUM_PICTURED
    )
    objective = whole_objective(with_gram)
    tokens = [
        torch.nn.functional.normalize(encoder.forward_features(with_gram.images)[:, 1:], dim=2)
        for encoder in (objective.gram_teacher, objective.encoder)
    ]
    before, after = (rows @ rows.mT for rows in tokens)
    drift = f"{((after - before) ** 2).mean().sqrt():.3f}"
    assert f"{drift} at step 20" in found.about and drift != "0.000" and f"{drift} at step 12" not in found.about


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
