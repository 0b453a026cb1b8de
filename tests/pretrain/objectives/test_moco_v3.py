"""MoCo v3 against a slow, obvious reference in float64, written query by query from algorithm 1."""

import math

import pytest
import torch
from step_passes import take_passes
from torch import nn

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.networks.positions import sincos_positions
from eyespot.pretrain.objectives.moco_v3 import MoCoV3
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

SIZE, OUT = 24, 8
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def make_moco(encoder: str = "test_vit", **changes) -> MoCoV3:
    torch.manual_seed(0)
    vit = encoder == "test_vit"
    config = EncoderConfig(name=encoder, image_size=SIZE, patch_size=4 if vit else None)
    resnet = {} if vit else {"projector_layers": 2, "predictor_norm": False, "freeze_patches": False}
    settings = {"hidden_dim": 16, "out_dim": OUT} | resnet | changes
    return MoCoV3.Config(**settings).build(make_encoder(config), SIZE).double()


def make_parts(count: int, parts: int = 1) -> list[tuple[Batch, int]]:
    """The same ``count`` samples in so many micro-batches, each with its seed."""
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(count, 3, SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(2)]
    ids = torch.arange(count)
    return [
        (Batch(views=[x, y], ids=own, epochs=own, labels=own, seed=0), 0)
        for x, y, own in zip(*(rows.chunk(parts) for rows in (*views, ids)), strict=True)
    ]


def slow_head(features, head):
    """Linear layers, batch norm with the batch's own statistics and ReLU, by hand."""
    for layer in head:
        if isinstance(layer, nn.Linear):
            features = features @ layer.weight.T + (0 if layer.bias is None else layer.bias)
        elif isinstance(layer, nn.BatchNorm1d):
            centred = features - features.mean(0)
            features = centred / torch.sqrt((centred**2).mean(0) + 1e-5)
            features = features * layer.weight + layer.bias if layer.affine else features
        else:
            features = features.clamp(min=0)
    return features


def slow_loss(moco: MoCoV3, batch: Batch) -> torch.Tensor:
    """Both directions, query by query; every key of the batch stands in the denominator."""
    temperature, losses = moco.config.temperature, []
    queries = [slow_head(slow_head(moco.encoder(view), moco.projector), moco.predictor) for view in batch.views]
    keys = [slow_head(moco.teacher_encoder(view), moco.teacher_projector).detach() for view in batch.views]
    for rows, others in ((queries[0], keys[1]), (queries[1], keys[0])):
        for place, query in enumerate(rows):
            cosines = [query @ key / (query.norm() * key.norm()) for key in others]
            total = sum(torch.exp(cosine / temperature) for cosine in cosines)
            losses.append(-2 * temperature * torch.log(torch.exp(cosines[place] / temperature) / total))
    return torch.stack(losses).sum() / len(batch)


@pytest.mark.parametrize(("encoder", "temperature"), [("test_vit", 0.2), ("test_resnet", 1.0)])
def test_loss_and_gradients_equal_the_slow_reference(encoder, temperature):
    moco = make_moco(encoder, temperature=temperature)
    with torch.no_grad():  # teacher and student differ
        for parameter in moco.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    ((batch, _),) = make_parts(10)
    fast = moco(batch)["loss"]
    names, parameters = zip(*((n, p) for n, p in moco.named_parameters() if p.requires_grad), strict=True)
    fast_gradients = torch.autograd.grad(fast, parameters)
    slow = slow_loss(moco, batch)
    slow_gradients = torch.autograd.grad(slow, parameters)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    for name, a, b in zip(names, fast_gradients, slow_gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-10), name


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
def test_the_teacher_has_no_predictor_and_no_gradient(encoder):
    moco = make_moco(encoder)
    ((batch, _),) = make_parts(6)
    assert moco.targets(batch)["first_keys"].grad_fn is None
    moco(batch)["loss"].backward()
    frozen = {"encoder.pos_embed", "encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias"}
    for name, parameter in moco.named_parameters():
        assert (parameter.grad is None) == (name.startswith("teacher_") or name in frozen), name
    student, teacher = (
        {name.removeprefix("teacher_") for name in moco.state_dict() if name.startswith("teacher_") == theirs}
        for theirs in (False, True)
    )
    assert student - teacher == {name for name in student if name.startswith("predictor.")}
    assert teacher < student


def test_the_teacher_follows_with_a_momentum_that_rises_to_one():
    """Closed form over four steps, momenta 1 - 0.1 (cos(pi p) + 1) / 2."""
    moco = make_moco(momentum=0.9)
    expected = [p.detach().clone() for p in (*moco.encoder.parameters(), *moco.projector.parameters())]
    for step in range(1, 5):
        with torch.no_grad():
            for parameter in (*moco.encoder.parameters(), *moco.projector.parameters()):
                parameter += torch.randn_like(parameter)
        moco.after_step(step / 4)
        momentum = 1 - 0.1 * (math.cos(math.pi * step / 4) + 1) / 2
        students = (*moco.encoder.parameters(), *moco.projector.parameters())
        expected = [momentum * old + (1 - momentum) * new.detach() for old, new in zip(expected, students, strict=True)]
    teachers = (*moco.teacher_encoder.parameters(), *moco.teacher_projector.parameters())
    for parameter, value in zip(teachers, expected, strict=True):
        assert torch.allclose(parameter, value, rtol=1e-12, atol=1e-13)


def engine_gradients(world: World, parts: list[tuple[Batch, int]]) -> tuple[float, dict[str, torch.Tensor]]:
    moco = make_moco()
    for module in moco.modules():
        if isinstance(module, nn.BatchNorm1d):  # a micro-batch's own statistics would differ, as they should
            module.eval()
    engine = make_engine(
        "ddp",
        moco,
        world,
        lambda module: make_optimizer(module, OptimConfig()),
        Settings(accumulate=len(parts), clip=None, precision="fp32"),
    )
    loss = float(take_passes(engine, parts)[0]["loss"])
    return loss, {name: p.grad.clone() for name, p in moco.named_parameters() if p.grad is not None}


def rank_gradients(world: World) -> tuple[float, dict[str, torch.Tensor]]:
    """Two micro-batches on each rank."""
    return engine_gradients(world, make_parts(64, 2 * world.size)[world.rank :: world.size])


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(actual[name], gradient, rtol=1e-9, atol=1e-11), name


def test_micro_batches_give_the_gradient_of_the_whole_batch():
    loss, gradients = engine_gradients(ALONE, make_parts(64))
    cached_loss, cached = engine_gradients(ALONE, make_parts(64, 4))
    assert cached_loss == pytest.approx(loss, rel=1e-12)
    assert_same(cached, gradients)


def test_two_ranks_give_the_gradient_of_the_whole_batch(on_ranks):
    loss, gradients = engine_gradients(ALONE, make_parts(64))
    answers = on_ranks(rank_gradients, 2)
    assert sum(own for own, _ in answers) / 2 == pytest.approx(loss, rel=1e-12)
    for _, own in answers:
        assert_same(own, gradients)


def test_a_transformer_keeps_its_patches_and_positions():
    moco = make_moco()
    table = sincos_positions(64, 6, 6)
    assert torch.allclose(moco.encoder.pos_embed[0, 1:], table, atol=1e-6)
    assert (moco.encoder.pos_embed[0, 0] == 0).all()
    before = {name: p.clone() for name, p in moco.named_parameters() if not p.requires_grad and "teacher" not in name}
    assert set(before) == {
        f"encoder.{name}" for name in ("pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
    }
    optimizer = make_optimizer(moco, OptimConfig(weight_decay=0.1, decay_vectors=True))
    moco(make_parts(6)[0][0])["loss"].backward()
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    moco.after_step(0.5)
    for name, value in before.items():
        assert torch.equal(moco.get_parameter(name), value), name
        assert torch.equal(moco.get_parameter(f"teacher_{name}"), value), name
    assert make_moco(freeze_patches=False).encoder.patch_embed.proj.weight.requires_grad


def test_a_transformer_starts_as_the_authors_do():
    """Uniform with the bound of Xavier, for Q, K and V each on its own."""
    encoder = make_moco().encoder
    bounds = {
        encoder.patch_embed.proj.weight: math.sqrt(6 / (3 * 4 * 4 + 64)),
        encoder.blocks[0].attn.qkv.weight: math.sqrt(6 / (64 + 64)),
        encoder.blocks[0].mlp.fc1.weight: math.sqrt(6 / sum(encoder.blocks[0].mlp.fc1.weight.shape)),
    }
    for weight, bound in bounds.items():
        assert 0.97 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert (encoder.patch_embed.proj.bias == 0).all()


def test_heads_are_the_authors():
    """Transformers 3 + 2 layers, batch norm after both; ResNets 2 + 2, none after the predictor."""
    vit, resnet = make_moco(), make_moco("test_resnet")
    for moco, layers in ((vit, 3), (resnet, 2)):
        assert sum(isinstance(layer, nn.Linear) for layer in moco.projector) == layers
        assert sum(isinstance(layer, nn.Linear) for layer in moco.predictor) == 2
        assert not moco.projector[-1].affine
    assert not vit.predictor[-1].affine
    assert isinstance(resnet.predictor[-1], nn.Linear)


def test_a_resnet_has_no_patches_to_freeze():
    with pytest.raises(UserError, match=r"objective\.freeze_patches True: ResNet"):
        make_moco("test_resnet", freeze_patches=True)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"momentum": -0.1}, "momentum"),
        ({"projector_layers": 0}, "projector_layers"),
    ],
)
def test_wrong_numbers_name_their_field(changes, field):
    with pytest.raises(UserError, match=f"objective.{field} "):
        MoCoV3.Config(**changes)


def test_one_image_is_no_batch():
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        MoCoV3.Config().check_batch(1)


@pytest.mark.parametrize("recipe", ["moco_v3_vits16_in1k", "moco_v3_vitb16_in1k", "moco_v3_r50_in1k"])
def test_moco_v3_on_imagenet_has_the_papers_numbers(recipe):
    """Chen et al. 2021, section 5, and the authors' CONFIG.md: 300 epochs at batch 4096."""
    run = make_run(recipe)
    optim, objective, vit = run.optim, run.objective, "vit" in recipe
    assert optim.name == ("adamw" if vit else "lars")
    assert (optim.weight_decay, optim.decay_vectors) == ((0.1, True) if vit else (1e-6, False))
    assert (optim.betas == (0.9, 0.999)) == vit
    assert effective_rate(optim.lr, run.data.batch_size) == pytest.approx((1.5e-4 if vit else 0.3) * 4096 / 256)
    assert optim.warmup_steps == pytest.approx((40 if vit else 10) * 1_281_167 / 4096, abs=1)
    assert run.steps == pytest.approx(300 * 1_281_167 / 4096, abs=1)
    assert (objective.hidden_dim, objective.out_dim, objective.momentum) == (4096, 256, 0.99)
    assert objective.temperature == (0.2 if vit else 1.0)
    heads = (objective.projector_layers, objective.predictor_norm, objective.freeze_patches)
    assert heads == ((3, True, True) if vit else (2, False, False))
    for view, blur, solarize in ((objective.first, 1.0, 0.0), (objective.second, 0.1, 0.2)):
        assert view.scale == ((0.08, 1.0) if vit else (0.2, 1.0))
        assert (view.jitter, view.jitter_probability, view.grayscale) == ((0.4, 0.4, 0.2, 0.1), 0.8, 0.2)
        assert (view.blur, view.solarize) == (blur, solarize)
