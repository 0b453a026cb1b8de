"""Teachers: the moving average in closed form, and no gradient."""

import pytest
import torch
from timm.layers.drop import DropPath
from torch import nn

from eyespot.pretrain.networks import ema_teacher
from eyespot.pretrain.networks.ema_teacher import (
    average,
    cosine_momentum,
    follow,
    make_steady_teacher,
    make_teacher,
    rising_decay,
)

NUM_STEPS = 20


def make_student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()


def test_it_equals_the_closed_form_after_many_steps():
    """m^n t_0 + (1 - m) sum over i of m^(n - i) s_i, for the n students that it followed."""
    student, momentum = make_student(), 0.9
    teacher = make_teacher(student)
    expected = [momentum**NUM_STEPS * parameter.detach() for parameter in student.parameters()]
    for step in range(1, NUM_STEPS + 1):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter += torch.randn_like(parameter)
        follow(teacher, student, momentum)
        for total, parameter in zip(expected, student.parameters(), strict=True):
            total += (1 - momentum) * momentum ** (NUM_STEPS - step) * parameter.detach()
    for parameter, total in zip(teacher.parameters(), expected, strict=True):
        assert torch.allclose(parameter, total, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("elements", [1, 10, 10**6])
def test_where_the_device_knows_whether_it_moves_it_moves_so_or_not_at_all(elements, monkeypatch):
    monkeypatch.setattr(ema_teacher, "PART_ELEMENTS", elements)
    student = make_student()
    known, told, skipped = (make_teacher(student) for _ in range(3))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += torch.randn_like(parameter)
    follow(known, student, 0.9)
    follow(told, student, 0.9, torch.tensor(True))
    before = [parameter.clone() for parameter in skipped.parameters()]
    follow(skipped, student, 0.9, torch.tensor(False))
    for one, other in zip(told.parameters(), known.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-14, atol=1e-15)  # a sum may be near 0
    assert all(map(torch.equal, skipped.parameters(), before))


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_ends_of_the_range(momentum):
    student = make_student()
    teacher = make_teacher(student)
    before = [parameter.clone() for parameter in teacher.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(2)
    follow(teacher, student, momentum)
    for parameter, old, new in zip(teacher.parameters(), before, student.parameters(), strict=True):
        assert torch.equal(parameter, old if momentum else new.detach())


def test_it_is_a_copy_without_gradient_that_does_not_touch_the_student():
    student = make_student()
    teacher = make_teacher(student)
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    student(images).sum().backward()
    gradients = [parameter.grad.clone() for parameter in student.parameters()]
    before = [parameter.clone() for parameter in student.parameters()]
    follow(teacher, student, 0.5)
    for parameter, old, gradient in zip(student.parameters(), before, gradients, strict=True):
        assert torch.equal(parameter, old)
        assert torch.equal(parameter.grad, gradient)
    assert all(parameter.grad is None and parameter.grad_fn is None for parameter in teacher.parameters())


def test_running_statistics_are_its_own():
    student = make_student()
    teacher = make_teacher(student)
    student(torch.randn(4, 3, 8, 8, dtype=torch.float64) + 5)
    follow(teacher, student, 0.0)
    assert (teacher[1].running_mean == 0).all()
    assert (student[1].running_mean != 0).all()


def test_an_average_is_the_recursion_in_float64_statistics_and_all():
    """a_t = m_t a_(t-1) + (1 - m_t) w_t with m_t = min(0.8, (1 + t) / (10 + t)), number by number; none if skipped."""
    student = make_student()
    averaged = make_teacher(student)
    floats = {name: value.flatten().tolist() for name, value in averaged.state_dict().items() if value.ndim}
    for step in range(1, NUM_STEPS + 1):
        student(torch.randn(4, 3, 8, 8, dtype=torch.float64) + step)  # which moves the running statistics
        with torch.no_grad():
            for parameter in student.parameters():
                parameter += torch.randn_like(parameter)
        taken = [True, torch.tensor(True), torch.tensor(False)][step % 3]
        average(averaged, student, rising_decay(0.8, step), taken)
        m = min(0.8, (1 + step) / (10 + step))
        for name, values in floats.items() if taken else ():
            new = student.state_dict()[name].flatten().tolist()
            floats[name] = [m * old + (1 - m) * w for old, w in zip(values, new, strict=True)]
    assert averaged[1].num_batches_tracked == NUM_STEPS - 1  # of the last step that was taken
    for name, values in floats.items():
        assert averaged.state_dict()[name].flatten().tolist() == pytest.approx(values, rel=1e-12, abs=1e-13), name


def test_the_momentum_rises_along_half_a_cosine():
    assert cosine_momentum(0.99, 0.0) == pytest.approx(0.99, abs=1e-15)
    assert cosine_momentum(0.99, 0.5) == pytest.approx(0.995, abs=1e-15)
    assert cosine_momentum(0.99, 1.0) == 1.0
    assert cosine_momentum(0.996, 1 / 3) == pytest.approx(1 - 0.004 * 0.75, abs=1e-15)  # cos(60 degrees) is a half


def test_a_steady_teacher_drops_no_paths():
    student = nn.Sequential(DropPath(0.9), nn.Linear(3, 3)).train()
    teacher = make_steady_teacher(student)
    assert student[0].drop_prob == 0.9 and not any(parameter.requires_grad for parameter in teacher.parameters())
    rows = torch.ones(50, 3)
    assert torch.equal(teacher(rows), student[1](rows))
