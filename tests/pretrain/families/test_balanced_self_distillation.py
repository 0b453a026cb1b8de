"""What DINOv2 and DINOv3 share; the loss is held against a slow one in tests/pretrain/objectives/test_dinov2.py."""

import pytest
import torch

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.masked_self_distillation import chosen
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.dinov2 import DINOv2
from eyespot.pretrain.objectives.dinov3 import DINOv3

COUNT, SIZE, OUT = 5, 16, 7


@pytest.mark.parametrize("method", [DINOv2, DINOv3], ids=["dinov2", "dinov3"])
def test_temperatures_at_which_goals_underflow_are_refused(method):
    with pytest.raises(UserError, match=r"objective.teacher_temperature .*must be 0.025 or more"):
        method.Config(teacher_temperature=(0.02, 0.07))


def test_rows_are_of_samples_and_teacher_and_student_speak_of_the_same_patches():
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    views = {"first": RandomView(), "second": RandomView(), "small": RandomView(size=8)}
    heads = {"num_small": 1, "hidden_dim": 8, "bottleneck_dim": 6, "out_dim": OUT}
    objective = DINOv2.Config(**views, **heads).build(encoder, SIZE).eval()
    ids = torch.arange(COUNT)
    images = [torch.randn(COUNT, 3, size, size) for size in (SIZE, SIZE, 8)]
    batch = Batch(views=images, ids=ids, epochs=ids * 0, labels=ids, seed=0)
    masks = objective.masks(batch)
    with torch.no_grad():
        rows, goals = objective.embed(batch), objective.targets(batch)
        seen = objective.seen_by_student(batch, masks)
        patches = chosen(objective.seen_by_teacher(batch).patches, masks.places)
        assert torch.equal(goals["patch_scores"].transpose(0, 1), objective.patch_head(patches))
    width = encoder.embed_dim
    shapes = {"classes": (COUNT, 3, OUT), "patches": (COUNT, 2, 8, OUT), "tokens": (COUNT, 2, width)}
    assert {name: tuple(row.shape) for name, row in rows.items()} == shapes
    assert torch.equal(rows["tokens"].transpose(0, 1), seen.classes[:2])
    assert torch.equal(goals["hidden"].transpose(0, 1), masks.hidden) and goals["class_scores"].shape == (COUNT, 2, OUT)
