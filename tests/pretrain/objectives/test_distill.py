"""Distillation against a slow, obvious reference in float64; the teacher's peace; students in company and alone."""

import math

import pytest
import torch
from step_passes import take_passes

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Engine, Settings, make_engine
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.networks.fixed.fixed_teacher import TeacherConfig
from eyespot.pretrain.objectives.distill import Distill, resampled
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer
from eyespot.pretrain.optim.unread_parameters import freeze_unread

COUNT, SIZE = 4, 32
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
VIT, CONV = EncoderConfig(name="test_vit", image_size=SIZE, patch_size=8), "conv=test_resnet"


def make_distill(encoder: EncoderConfig = VIT, teacher: str = "test_vit", **changes) -> Distill:
    torch.manual_seed(0)
    patch = {"test_vit": 4, "test_vit2": 4}.get(teacher)
    named = TeacherConfig(model="random", name=teacher, patch_size=patch)
    return Distill.Config(teacher=named, **changes).build(make_encoder(encoder), SIZE)


def make_batch(count: int = COUNT, seed: int = 1, dtype: torch.dtype = torch.float64) -> Batch:
    images = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    ids = torch.arange(count)
    return Batch(views=[images], ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def slow_weights(source: int, target: int) -> list[list[float]]:
    """A triangle as wide as two places of the coarser grid, around the middle of each place: PIL's bilinear filter."""
    scale = source / target
    rows = []
    for place in range(target):
        raw = [max(0.0, 1 - abs(k + 0.5 - (place + 0.5) * scale) / max(scale, 1.0)) for k in range(source)]
        rows.append([weight / sum(raw) for weight in raw])
    return rows


def slow_resampled(maps, grid):
    """(B, D, h, w) to the places of the grid, row by row: (B, n, D)."""
    down, across = slow_weights(maps.shape[2], grid[0]), slow_weights(maps.shape[3], grid[1])
    places = []
    for row in down:
        for column in across:
            parts = [a * b * maps[:, :, i, j] for i, a in enumerate(row) for j, b in enumerate(column)]
            places.append(sum(parts[1:], parts[0]))
    return torch.stack(places, 1)


def slow_loss(distill: Distill, images, encoder, head):
    """Image by image, token by token; test_vit has a class token and no others, test_resnet a map."""
    teacher = distill.teacher.encoder
    theirs = teacher.forward_features(images)
    side = math.isqrt(theirs.shape[1] - 1)
    asked = [standardized(theirs[:, 0], distill.of_classes), standardized(theirs[:, 1:], distill.of_patches)]
    theirs = torch.cat([asked[0][:, None], asked[1]], 1)
    maps = theirs[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    found = encoder.forward_features(images)
    if found.ndim == 3:
        classes, patches, grid = found[:, 0], found[:, 1:], (math.isqrt(found.shape[1] - 1),) * 2
    else:
        classes, patches, grid = found.mean((2, 3)), found.flatten(2).transpose(1, 2), found.shape[2:]
    goals, losses = slow_resampled(maps, grid), []
    for i in range(len(images)):
        ours = classes[i] @ head.classes.weight.T + head.classes.bias
        loss = distill.config.class_weight * (1 - cosine(ours, theirs[i, 0]))
        for p in range(len(goals[i])):
            ours = patches[i, p] @ head.patches.weight.T + head.patches.bias
            gap = (ours - goals[i, p]).abs()
            smooth = torch.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
            one = 0.75 * (1 - cosine(ours, goals[i, p])) + 0.25 * smooth
            loss = loss + distill.config.patch_weight * one / len(goals[i])
        losses.append(loss)
    return sum(losses) / len(losses)


def standardized(features, known):
    return (features - known.mean) / (known.variance + 1e-6 * known.variance.mean()).sqrt()


def cosine(one, other):
    return (one * other).sum() / (one.square().sum() * other.square().sum()).sqrt()


def test_loss_and_gradient_are_those_of_a_slow_reference():
    distill = make_distill(students=(CONV,), class_weight=0.7, patch_weight=1.3, smooth_share=0.25).double().eval()
    for known in (distill.of_classes, distill.of_patches):
        known.mean.normal_(generator=torch.Generator().manual_seed(2))
        known.variance.uniform_(0.1, 2, generator=torch.Generator().manual_seed(3))
    batch = make_batch()
    found = distill(batch)
    parts = [(distill.encoder, distill.head), (distill.students["conv"], distill.student_heads["conv"])]
    expected = sum(slow_loss(distill, batch.views[0], *part) for part in parts)
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-10)
    learning = [parameter for parameter in distill.parameters() if parameter.requires_grad]
    ours = torch.autograd.grad(found["loss"], learning)
    theirs = torch.autograd.grad(expected, learning)
    assert all(torch.allclose(one, other, rtol=1e-8, atol=1e-11) for one, other in zip(ours, theirs, strict=True))
    assert {"class_loss", "patch_loss", "conv/class_loss", "conv/patch_loss"} < found.keys()


@pytest.mark.parametrize(("weights", "asked"), [((0.7, 0.0), "class"), ((0.0, 1.3), "patch")])
def test_what_has_no_weight_is_not_asked_and_costs_no_layer(weights, asked):
    """The rest of the loss is what it is beside it; every parameter that is left is read."""
    both = make_distill(students=(CONV,), class_weight=1.0, patch_weight=1.0).double().eval()
    chosen = dict(zip(("class_weight", "patch_weight"), weights, strict=True))
    one = make_distill(students=(CONV,), **chosen)
    freeze_unread(one.encoder, one.read, SIZE)
    one.double().eval()
    assert set(both.state_dict()) - set(one.state_dict()) == {
        f"{head}.{'patches' if asked == 'class' else 'classes'}.{part}"
        for head in ("head", "student_heads.conv")
        for part in ("weight", "bias")
    }
    one.load_state_dict(both.state_dict(), strict=False)
    wanted, found = both(make_batch()), one(make_batch())
    names = [f"{student}{asked}_loss" for student in ("", "conv/")]
    assert [name for name in found if name.endswith("_loss")] == names
    expected = sum(wanted[name] for name in names) * sum(weights)
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-12)
    learning = [parameter for parameter in one.parameters() if parameter.requires_grad]
    torch.autograd.grad(found["loss"], learning)  # raises where the loss knows nothing of one


@pytest.mark.parametrize("grid", [(3, 3), (8, 8), (5, 7), (2, 1)])
def test_tokens_on_another_grid_are_those_of_a_slow_filter(grid):
    maps = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = resampled(maps, grid)
    assert found.shape == (2, *grid, 3)
    assert torch.allclose(found.flatten(1, 2), slow_resampled(maps, grid), atol=1e-12)


def test_the_loss_is_the_mean_over_its_samples():
    distill = make_distill(students=(CONV,)).double().eval()
    batch = make_batch()
    distill.notes_losses = True
    loss = distill(batch)["loss"]
    of_each = [distill(make_single(batch, i))["loss"].item() for i in range(COUNT)]
    assert loss.item() == pytest.approx(sum(of_each) / COUNT, rel=1e-12)


def make_single(batch: Batch, place: int) -> Batch:
    return Batch(
        views=[batch.views[0][place : place + 1]],
        ids=batch.ids[:1],
        epochs=batch.epochs[:1],
        labels=batch.labels[:1],
        seed=0,
    )


def stepped(distill: Distill, steps: int = 3) -> Engine:
    optim = OptimConfig(lr=1e-2, weight_decay=0.1)
    engine = make_engine("ddp", distill, ALONE, lambda module: make_optimizer(module, optim), Settings())
    for step in range(steps):
        take_passes(engine, [(make_batch(seed=step, dtype=torch.float32), step)])
        assert engine.step(1e-2)[1]
        distill.after_step((step + 1) / steps)
    return engine


def test_the_teacher_is_not_trained_nor_saved_and_notes_nothing():
    distill = make_distill(teacher="test_resnet")  # batch norms, which would note what they see
    before = {name: tensor.clone() for name, tensor in distill.teacher.encoder.state_dict().items()}
    engine = stepped(distill.train())
    assert all(not part.training for part in distill.teacher.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in distill.teacher.encoder.state_dict().items())
    assert not [name for name in engine.save_tensors() if "teacher" in name]
    frozen = {id(parameter) for parameter in distill.teacher.parameters()}
    assert not frozen & {id(p) for group in engine._optimizer.param_groups for p in group["params"]}
    other = make_distill(teacher="test_resnet")
    other.load_state_dict(distill.state_dict())  # none is missing
    assert torch.equal(other.encoder.get_parameter("cls_token"), distill.encoder.get_parameter("cls_token"))


def test_students_in_company_become_to_the_bit_what_they_become_alone():
    both = make_distill(students=(CONV, "wide=test_vit3,patch_size=4"))
    stepped(both)
    for encoder, found in (
        (VIT, both.encoder),
        (EncoderConfig(name="test_resnet", image_size=SIZE), both.students["conv"]),
        (EncoderConfig(name="test_vit3", image_size=SIZE, patch_size=4), both.students["wide"]),
    ):
        alone = make_distill(encoder)
        begun = {name: tensor.clone() for name, tensor in alone.encoder.state_dict().items()}
        stepped(alone)
        expected = alone.encoder.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
        assert not all(torch.equal(tensor, begun[name]) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("encoder", "teacher"),
    [("test_convnext", "test_vit2"), ("vit_small_patch16_rope_224", "test_resnet"), ("test_vit4", "test_convnext")],
)
def test_any_encoder_teaches_any(encoder, teacher):
    distill = make_distill(EncoderConfig(name=encoder, image_size=SIZE), teacher)
    images = make_batch(2, dtype=torch.float32)
    loss = distill(images)["loss"]
    loss.backward()
    assert loss.isfinite() and any(p.grad is not None and p.grad.any() for p in distill.encoder.parameters())
    with torch.no_grad():
        assert distill.encode(images.views[0]).shape[0] == 2


@pytest.mark.parametrize(
    ("students", "message"),
    [
        (("resnet18",), r"objective\.students 'resnet18': write NAME=ARCHITECTURE"),
        (("a.b=resnet18",), "write NAME=ARCHITECTURE"),
        (("ema=resnet18",), r"RUN@ema is the average of the encoder's weights .*; choose another name"),
        (("keys=resnet18",), "keys means something else to torch"),
        ((CONV, "conv=test_vit"), "another student is called conv"),
        (("a=test_vit,patch=4",), "knows no 'patch=4'; there are small_stem, checkpointing, patch_size, drop_path"),
        (("a=test_vit,patch_size=big",), "patch_size 'big' is no number"),
        (("a=test_vit,patch_size=0",), "encoder.patch_size 0: must be 1 or more"),
    ],
)
def test_students_that_cannot_be_are_one_line(students, message):
    with pytest.raises(UserError, match=message) as caught:
        Distill.Config(students=students)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"students": ("a=resnet1",)}, r"objective\.students, a: encoder\.name 'resnet1': timm has no such"),
        ({"teacher": "vit_giant_patch7"}, r"objective\.teacher\.model random: as the students' teacher, encoder\.name"),
        ({"teacher": "vit_tiny_patch14_dinov2"}, "timm has no such architecture"),
        ({"view": RandomView(size=16)}, r"objective\.view\.size 16: this method's views have 32 pixels"),
        ({"view": RandomView(clip=Clip(2))}, r"objective\.view\.clip\.frames 2: this method sees one frame"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        make_distill(**changes).views()
    assert "\n" not in str(caught.value)


def test_a_teacher_whose_patches_do_not_fill_the_image_is_refused():
    torch.manual_seed(0)
    teacher = TeacherConfig(model="random", name="test_vit2", patch_size=7)
    with pytest.raises(UserError, match=r"objective\.teacher\.model random: .* 7.* does not divide .*image_size 32"):
        Distill.Config(teacher=teacher).build(make_encoder(VIT), SIZE)


def test_a_loss_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"objective\.class_weight 0\.0: nothing is learned"):
        Distill.Config(class_weight=0.0, patch_weight=0.0)
