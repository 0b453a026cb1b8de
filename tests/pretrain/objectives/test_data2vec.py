"""data2vec 2.0 against a slow, obvious reference in float64, written image by image and mask by mask from the paper."""

import pytest
import torch
from slow_vit import slow_block, slow_linear, slow_norm

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.patchify import patchify, unpatchify
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.data2vec import Data2Vec
from eyespot.pretrain.recipe_lookup import make_run

SIZE, PATCH, GRID, KERNEL = 24, 4, 6, 3


def make_data2vec(**changes) -> Data2Vec:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=PATCH))
    encoder.blocks = encoder.blocks[:3]
    numbers = {"num_masks": 2, "block_size": 2, "top_blocks": 2, "decoder_dim": 24, "decoder_depth": 2} | changes
    objective = Data2Vec.Config(decoder_groups=4, class_weight=0.3, **numbers).build(encoder, SIZE)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return objective.double()


def make_batch(count: int = 3, first_id: int = 0) -> Batch:
    images = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ids = torch.arange(first_id, first_id + count)
    return Batch(views=[images], ids=ids, epochs=torch.zeros_like(ids), labels=torch.zeros_like(ids), seed=0)


def slow_first_tokens(vit, image, visible):
    tokens = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]]
    for patch in visible:
        top, left = patch // GRID * PATCH, patch % GRID * PATCH
        square = image[:, top : top + PATCH, left : left + PATCH]
        token = (vit.patch_embed.proj.weight * square).sum(dim=(1, 2, 3)) + vit.patch_embed.proj.bias
        tokens.append(token + vit.pos_embed[0, 1 + patch])
    return torch.stack(tokens)


def slow_standard(values, dim):
    centred = values - values.mean(dim, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(dim, keepdim=True) + 1e-5)


def slow_goals(data2vec: Data2Vec, image):
    """Of each patch: what the last feed-forward layers say, normalised per channel, their mean, normalised."""
    vit = data2vec.teacher_encoder
    tokens, said = slow_first_tokens(vit, image, range(GRID * GRID)), []
    for block in vit.blocks:
        after = slow_block(tokens, block, 3)
        x = slow_norm(tokens, block.norm1)
        dim, heads = x.shape[1] // 3, []
        query, key, value = slow_linear(x, block.attn.qkv).chunk(3, dim=-1)
        for head in range(3):
            part = slice(head * dim, (head + 1) * dim)
            heads.append(torch.softmax(query[:, part] @ key[:, part].T / dim**0.5, 1) @ value[:, part])
        attended = tokens + slow_linear(torch.cat(heads, dim=-1), block.attn.proj)
        said.append((after - attended)[1:])
        tokens = after
    mean = sum(slow_standard(part, 0) for part in said[-2:]) / 2
    return slow_standard(mean, 1).detach()


def slow_convolution(grid, layer):
    """Group by group and place by place; outside there is nothing."""
    weight, groups = layer.weight, layer.groups
    wide, per_group = weight.shape[0] // groups, weight.shape[1]
    rows = []
    for place in range(GRID * GRID):
        y, x = place // GRID, place % GRID
        found = layer.bias.clone()
        for dy in range(KERNEL):
            for dx in range(KERNEL):
                row, column = y + dy - 1, x + dx - 1
                if 0 <= row < GRID and 0 <= column < GRID:
                    for group in range(groups):
                        ours = slice(group * wide, (group + 1) * wide)
                        theirs = grid[row * GRID + column][group * per_group : (group + 1) * per_group]
                        change = torch.zeros_like(found)
                        change[ours] = weight[ours, :, dy, dx] @ theirs
                        found = found + change
        rows.append(found)
    return torch.stack(rows)


def slow_loss(data2vec: Data2Vec, batch: Batch):
    losses, vit = [], data2vec.encoder
    for image, orders in zip(batch.views[0], data2vec.mask_orders(batch).tolist(), strict=True):
        goals = slow_goals(data2vec, image)
        for order in orders:
            visible, hidden = order[: data2vec.num_visible], order[data2vec.num_visible :]
            tokens = slow_first_tokens(vit, image, visible)
            for block in vit.blocks:
                tokens = slow_block(tokens, block, 3)
            tokens = slow_norm(tokens, vit.norm)
            grid = [torch.zeros(vit.embed_dim, dtype=torch.float64)] * GRID**2
            for patch, token in zip(visible, tokens[1:], strict=True):
                grid[patch] = token
            grid = torch.stack(grid)
            for layer in data2vec.decoder.layers:
                found = slow_standard(slow_convolution(grid, layer), 1)
                found = 0.5 * found * (1 + torch.erf(found / 2**0.5))
                grid = grid + found if grid.shape == found.shape else found
            said = slow_linear(grid, data2vec.decoder.out)
            of_patches = torch.stack([((said[patch] - goals[patch]) ** 2).mean() for patch in hidden]).mean()
            losses.append(of_patches + 0.3 * ((tokens[0] - goals.mean(0)) ** 2).mean())
    return torch.stack(losses).mean()


def test_loss_and_gradients_equal_the_slow_reference():
    data2vec, batch = make_data2vec(), make_batch(2)
    with torch.no_grad():  # teacher and student start alike
        for parameter in data2vec.teacher_encoder.parameters():
            parameter *= 1.1
    named = {name: p for name, p in data2vec.named_parameters() if p.requires_grad}
    assert not any(name.startswith("teacher_encoder.") for name in named)
    fast, slow = data2vec(batch)["loss"], slow_loss(data2vec, batch)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-10)
    pairs = zip(
        torch.autograd.grad(fast, list(named.values())), torch.autograd.grad(slow, list(named.values())), strict=True
    )
    for name, (ours, theirs) in zip(named, pairs, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-7, atol=1e-12), name


def test_masks_are_the_samples_own_and_each_another():
    data2vec = make_data2vec()
    together, shifted = data2vec.mask_orders(make_batch(6)), data2vec.mask_orders(make_batch(4, first_id=2))
    assert torch.equal(together[2:], shifted)
    assert together.shape == (6, 2, 36) and not torch.equal(together[:, 0], together[:, 1])
    assert data2vec.num_visible == 7


def test_what_is_not_seen_does_not_reach_the_answer():
    data2vec, batch = make_data2vec(num_masks=1), make_batch()
    order = data2vec.mask_orders(batch)
    visible = order[:, :, : data2vec.num_visible]
    patches = patchify(batch.views[0], PATCH)
    index = visible[:, 0, :, None].expand(-1, -1, patches.shape[2])
    other = torch.full_like(patches, 9.0).scatter(1, index, patches.gather(1, index))
    changed = unpatchify(other, PATCH, (GRID, GRID))
    with torch.no_grad():
        ours, theirs = (data2vec.decoded(data2vec.see(v, visible), order) for v in (batch.views[0], changed))
    assert torch.equal(ours, theirs)


def test_the_teacher_follows_with_a_momentum_that_rises_linearly_and_stays():
    data2vec = make_data2vec(momentum=0.8, final_momentum=0.9, warmup=0.5)
    teacher, student = data2vec.teacher_encoder.norm.weight, data2vec.encoder.norm.weight
    with torch.no_grad():
        student += 1
    for progress, momentum in ((0.25, 0.85), (0.5, 0.9), (1.0, 0.9)):
        before = teacher.clone()
        data2vec.after_step(progress)
        assert torch.allclose(teacher, momentum * before + (1 - momentum) * student)
    before = teacher.clone()
    data2vec.after_step(0.0, torch.tensor(False))
    assert torch.equal(teacher, before)


def test_a_picture_shows_what_is_seen():
    data2vec, batch = make_data2vec(), make_batch()
    images, seen = data2vec.picture(batch)
    assert torch.equal(images, batch.views[0].float())
    assert torch.equal(seen[seen != 0], images[seen != 0])
    assert (seen != 0).double().mean() == pytest.approx(7 / 36, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder_kernel": 4}, r"objective\.decoder_kernel 4: must be odd"),
        (
            {"top_blocks": 2, "decoder_groups": 5},
            r"objective\.decoder_groups 5: must divide objective\.decoder_dim 768",
        ),
        ({"top_blocks": 7}, r"objective\.top_blocks 7: the encoder has 6 blocks; lower it"),
        ({"top_blocks": 2, "mask_ratio": 0.999}, r"objective\.mask_ratio 0\.999: nothing visible of 36 patches; lower"),
    ],
)
def test_wrong_numbers_name_their_field(changes, said):
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=PATCH))
    with pytest.raises(UserError, match=said):
        Data2Vec.Config(**changes).build(encoder, SIZE)


def test_needs_a_vision_transformer_of_plain_blocks():
    with pytest.raises(UserError, match="Data2Vec needs a plain vision transformer"):
        Data2Vec.Config().build(make_encoder(EncoderConfig(name="test_resnet", image_size=SIZE)), SIZE)
    with torch.device("meta"):
        parallel = make_encoder(EncoderConfig(name="vit_small_patch16_18x2_224"))
    with pytest.raises(UserError, match="Data2Vec needs timm's plain blocks"):
        Data2Vec.Config().build(parallel, 224)


def test_data2vec_on_imagenet_has_the_authors_numbers():
    """base_images_only_task.yaml of the authors' repository."""
    run = make_run("data2vec_vitb16_in1k")
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(1e-3)
    assert (run.steps, run.optim.warmup_steps, run.data.batch_size) == (375_300, 50_040, 256)
    assert (run.optim.betas, run.optim.weight_decay, run.optim.clip) == ((0.9, 0.95), 0.05, 4.0)
    objective = run.objective
    assert (objective.num_masks, objective.mask_ratio, objective.block_size, objective.top_blocks) == (16, 0.8, 3, 10)
    assert (objective.decoder_dim, objective.decoder_depth, objective.decoder_groups) == (768, 6, 16)
    assert (objective.momentum, objective.final_momentum, objective.class_weight) == (0.9998, 0.99999, 0.01 * 16 * 16)


def test_the_teachers_blocks_are_called_whole_so_that_cut_parameters_are_gathered():
    objective, called = make_data2vec(), []
    for block in objective.teacher_encoder.blocks:
        block.register_forward_hook(lambda block, *_: called.append(block))
    objective.goals(make_batch().views[0])
    assert called == list(objective.teacher_encoder.blocks) and all(block.added is None for block in called)
