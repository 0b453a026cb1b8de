"""A teacher that stays as it is: in evaluation mode, without gradient, outside of what is saved and loaded."""

import pytest
import torch
from torch import nn

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.networks.fixed.fixed_teacher import RANDOM, FixedTeacher, TeacherConfig, fixed_teacher_of


class School(nn.Module):
    def __init__(self, name: str = "test_resnet", **changes) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.teacher = FixedTeacher(TeacherConfig(model=RANDOM, name=name, **changes), 32)
        self.head = nn.Linear(2, 2)


def test_it_stays_in_evaluation_mode_and_takes_no_gradient():
    school = School().train()
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    before = {name: tensor.clone() for name, tensor in school.teacher.encoder.state_dict().items()}
    found = school.teacher.tokens(images)
    assert school.head.training and not any(part.training for part in school.teacher.modules())
    assert not found.patches.requires_grad and not any(p.requires_grad for p in school.teacher.parameters())
    assert torch.equal(found.patches, last_tokens(school.teacher.encoder, images)[-1].patches)
    after = school.teacher.encoder.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_nothing_of_it_is_saved_and_nothing_is_missed():
    school, other = School(), School()
    state = school.state_dict()
    assert list(state) == ["head.weight", "head.bias"]
    with torch.no_grad():
        own = [parameter.add_(1).clone() for parameter in other.teacher.parameters()]
    assert other.load_state_dict(state).missing_keys == []
    assert all(torch.equal(now, then) for now, then in zip(other.teacher.parameters(), own, strict=True))
    assert torch.equal(other.head.weight, school.head.weight)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({"head.weight": state["head.weight"]})


def test_it_is_found():
    school = School()
    assert fixed_teacher_of(school) is school.teacher and fixed_teacher_of(school.head) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet1"}, r"objective\.teacher\.model random: as the students' teacher, encoder\.name 'resnet1'"),
        ({"name": "test_vit", "patch_size": 5}, r"encoder\.patch_size 5: does not divide encoder\.image_size 32"),
        ({"name": "vit_tiny_patch16_224", "patch_size": 64}, r"encoder\.patch_size 64: does not divide"),
    ],
)
def test_one_that_cannot_be_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        School(**changes)
    assert "\n" not in str(caught.value)


def test_numbers_have_ranges():
    with pytest.raises(UserError, match="patch_size 0: must be 1 or more"):
        TeacherConfig(patch_size=0)
