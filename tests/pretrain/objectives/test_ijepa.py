"""I-JEPA against a slow, obvious reference in float64, written image by image and block by block from the paper."""

import pytest
import torch
from slow_vit import slow_block, slow_linear, slow_norm, slow_positions

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.patchify import patchify, unpatchify
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.ijepa import IJEPA
from eyespot.pretrain.recipe_lookup import make_run

SIZE, PATCH, GRID, DIM = 24, 4, 6, 24


def make_ijepa(**changes) -> IJEPA:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=PATCH))
    encoder.blocks = encoder.blocks[:2]
    config = IJEPA.Config(predictor_dim=DIM, predictor_depth=2, predictor_heads=3, **changes)
    objective = config.build(encoder, SIZE)
    with torch.no_grad():  # teacher and student start alike, biases at zero; let the comparison tell them apart
        for parameter in (*objective.parameters(),):
            parameter += 0.05 * torch.randn_like(parameter)
        for vit in (objective.student, objective.encoder):
            vit.pos_embed[0, 0] = 0
            vit.pos_embed[0, 1:] = slow_positions(vit.embed_dim, GRID)
    objective = objective.double()
    for vit in (objective.student, objective.encoder):  # tables are float32; the reference has them exactly
        vit.pos_embed.data[0, 1:] = slow_positions(vit.embed_dim, GRID)
    objective.predictor.positions.copy_(slow_positions(DIM, GRID)[None])
    return objective


def make_batch(count: int = 3, first_id: int = 0) -> Batch:
    images = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ids = torch.arange(first_id, first_id + count)
    return Batch(views=[images], ids=ids, epochs=torch.zeros_like(ids), labels=torch.zeros_like(ids), seed=0)


def slow_tokens(vit, image, visible):
    """Of the class token and the visible patches, after the last norm; the class token is left out."""
    tokens = [vit.cls_token[0, 0]]
    for patch in visible:
        top, left = patch // GRID * PATCH, patch % GRID * PATCH
        square = image[:, top : top + PATCH, left : left + PATCH]
        token = (vit.patch_embed.proj.weight * square).sum(dim=(1, 2, 3)) + vit.patch_embed.proj.bias
        tokens.append(token + vit.pos_embed[0, 1 + patch])
    tokens = torch.stack(tokens)
    for block in vit.blocks:
        tokens = slow_block(tokens, block, 3)
    return slow_norm(tokens, vit.norm)[1:]


def slow_loss(ijepa: IJEPA, batch: Batch):
    losses, predictor = [], ijepa.predictor
    for image, context, targets in zip(batch.views[0], *ijepa.drawn(batch), strict=True):
        whole = slow_tokens(ijepa.encoder, image, range(GRID * GRID)).detach()
        seen = slow_linear(slow_tokens(ijepa.student, image, context.tolist()), predictor.embed)
        positions = slow_positions(DIM, GRID)
        for block in targets.tolist():
            asked = [predictor.mask_token[0, 0] + positions[patch] for patch in block]
            tokens = torch.cat([seen + positions[context], torch.stack(asked)])
            for layer in predictor.blocks:
                tokens = slow_block(tokens, layer, 3)
            predicted = slow_linear(slow_norm(tokens, predictor.norm), predictor.out)[len(context) :]
            for patch, token in zip(block, predicted, strict=True):
                goal = whole[patch] - whole[patch].mean()
                goal = goal / torch.sqrt((goal**2).mean() + 1e-5)
                for error in (token - goal).abs():
                    losses.append(0.5 * error**2 if error < 1 else error - 0.5)
    return torch.stack(losses).mean()


def test_loss_and_gradients_equal_the_slow_reference():
    ijepa, batch = make_ijepa(num_targets=2), make_batch(2)
    named = {name: p for name, p in ijepa.named_parameters() if p.requires_grad}
    assert not any(name.startswith("encoder.") for name in named)
    fast, slow = ijepa(batch)["loss"], slow_loss(ijepa, batch)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-10)
    pairs = zip(
        torch.autograd.grad(fast, list(named.values())), torch.autograd.grad(slow, list(named.values())), strict=True
    )
    for name, (ours, theirs) in zip(named, pairs, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-7, atol=1e-12), name


def test_blocks_are_the_samples_own():
    """The same sample has the same blocks wherever it sits; another epoch draws them anew."""
    ijepa = make_ijepa()
    together, shifted = ijepa.drawn(make_batch(6)), ijepa.drawn(make_batch(4, first_id=2))
    for ours, theirs in zip(together, shifted, strict=True):
        assert torch.equal(ours[2:], theirs)
    later = make_batch(6)
    later.epochs = later.epochs + 1
    assert not torch.equal(ijepa.drawn(later)[0], together[0])


def test_what_is_not_seen_does_not_reach_the_prediction():
    ijepa, batch = make_ijepa(), make_batch()
    context, targets = ijepa.drawn(batch)
    patches = patchify(batch.views[0], PATCH)
    index = context[..., None].expand(-1, -1, patches.shape[2])
    other = torch.full_like(patches, 9.0).scatter(1, index, patches.gather(1, index))
    changed = unpatchify(other, PATCH, (GRID, GRID))
    with torch.no_grad():
        found = [
            ijepa.predictor(ijepa.read_visible(ijepa.student, view, context), context, targets)
            for view in (batch.views[0], changed)
        ]
    assert torch.equal(*found)


def test_the_teacher_follows_with_a_momentum_that_rises_linearly():
    ijepa = make_ijepa(momentum=0.9)
    before, student = ijepa.encoder.norm.weight.clone(), ijepa.student.norm.weight
    ijepa.after_step(0.5)
    assert torch.allclose(ijepa.encoder.norm.weight, 0.95 * before + 0.05 * student)
    now = ijepa.encoder.norm.weight.clone()
    ijepa.after_step(0.0, torch.tensor(False))
    ijepa.after_step(1.0)
    assert torch.equal(ijepa.encoder.norm.weight, now)


def test_it_may_rise_to_less():
    ijepa = make_ijepa(momentum=0.8, final_momentum=0.9)
    before, student = ijepa.encoder.norm.weight.clone(), ijepa.student.norm.weight
    torch.nn.init.normal_(student, generator=torch.Generator().manual_seed(3))
    ijepa.after_step(0.5)
    now = ijepa.encoder.norm.weight.clone()
    assert torch.allclose(now, 0.85 * before + 0.15 * student)
    ijepa.after_step(1.0)
    assert torch.allclose(ijepa.encoder.norm.weight, 0.9 * now + 0.1 * student)


def test_a_picture_shows_context_and_targets_apart():
    ijepa, batch = make_ijepa(), make_batch()
    images, seen, asked = ijepa.picture(batch)
    assert torch.equal(images, batch.views[0].float())
    assert not ((seen != 0) & (asked != 0)).any()
    assert (seen != 0).double().mean() == pytest.approx(9 / 36, abs=1e-6)
    assert torch.equal(asked[asked != 0], images[asked != 0])


def test_the_predictors_last_layers_begin_the_smaller_the_deeper_they_lie():
    """fix_init_weight of the authors' code: 0.02 / sqrt(2 l)."""
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=PATCH))
    ijepa = IJEPA.Config(predictor_dim=192, predictor_depth=3, predictor_heads=3).build(encoder, SIZE)
    for number, block in enumerate(ijepa.predictor.blocks, 1):
        for layer in (block.attn.proj, block.mlp.fc2):
            assert layer.weight.std().item() == pytest.approx(0.02 / (2 * number) ** 0.5, rel=0.03)
        assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.03)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_scale": (0.2, 0.1)}, r"objective\.target_scale \(0\.2, 0\.1\): must have the smaller number first"),
        ({"predictor_dim": 32, "predictor_heads": 3}, r"objective\.predictor_dim 32: must be a multiple of objective"),
        ({"predictor_dim": 6, "predictor_heads": 3}, r"objective\.predictor_dim 6: must be a multiple of 4.*try 12"),
        ({"context_ratio": 1.0}, r"objective\.context_ratio 1\.0: a block of"),
    ],
)
def test_wrong_numbers_name_their_field(changes, said):
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=PATCH))
    with pytest.raises(UserError, match=said):
        IJEPA.Config(**changes).build(encoder, SIZE)


def test_needs_a_vision_transformer():
    with pytest.raises(UserError, match="IJEPA needs a plain vision transformer"):
        IJEPA.Config().build(make_encoder(EncoderConfig(name="test_resnet", image_size=SIZE)), SIZE)


@pytest.mark.parametrize(
    ("recipe", "dim", "heads", "depth", "epochs"),
    [("ijepa_vith14_in1k", 1280, 16, 12, 300), ("ijepa_vitb16_in1k", 768, 12, 6, 600)],
)
def test_ijepa_on_imagenet_has_the_papers_numbers(recipe, dim, heads, depth, epochs):
    """Assran et al. 2023, section 4 and appendix A, and in1k_vith14_ep300.yaml of the authors' repository."""
    run = make_run(recipe)
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(1e-3)
    assert effective_rate(run.optim.min_lr, run.data.batch_size) == pytest.approx(1e-6)
    assert (run.optim.weight_decay, run.optim.final_weight_decay) == (0.04, 0.4)
    assert run.optim.warmup_steps == pytest.approx(40 * 1_281_167 / 2048, abs=1)
    assert run.steps == pytest.approx(epochs * 1_281_167 / 2048, abs=1)
    objective = run.objective
    assert (objective.num_targets, objective.target_scale, objective.target_aspect) == (4, (0.15, 0.2), (0.75, 1.5))
    assert (objective.context_scale, objective.crop_scale, objective.momentum) == ((0.85, 1.0), (0.3, 1.0), 0.996)
    assert (objective.predictor_dim, objective.predictor_depth, objective.predictor_heads) == (384, depth, heads)
    with torch.device("meta"):
        encoder = make_encoder(run.encoder)
    assert (encoder.embed_dim, encoder.num_prefix_tokens) == (dim, 0 if dim == 1280 else 1)
