"""MultiMAE against a slow, obvious reference in float64, one sample and one patch at a time; its masks; its numbers."""

import math

import numpy as np
import pytest
import timm
import torch
from slow_vit import slow_block, slow_linear, slow_norm, slow_positions

from eyespot.data_pipeline.augment.views import DepthView, RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.patchify import patchify, unpatchify
from eyespot.pretrain.images.standard_depth import standard_depth
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.multi_mae import DEPTH, IMAGE, MultiMAE
from eyespot.pretrain.optim.optimizers import parameter_groups
from eyespot.pretrain.recipe_lookup import make_run

SIZE, PATCH, GRID, DIM, HEADS = 16, 4, 4, 24, 3
NUM = GRID * GRID


def make(**changes) -> MultiMAE:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=PATCH))
    encoder.blocks = encoder.blocks[:2]
    config = dict(decoder_dim=DIM, decoder_depth=1, decoder_heads=HEADS, **changes)
    objective = MultiMAE.Config(**config).build(encoder, SIZE)
    with torch.no_grad():  # biases start at zero; let the comparison see them
        for parameter in objective.parameters():
            if parameter.requires_grad and parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return objective


def make_batch(count: int = 3, dtype: torch.dtype = torch.float64, first_id: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, SIZE, SIZE, generator=generator).to(dtype)
    depth = 2000 * torch.rand(count, 1, SIZE, SIZE, generator=generator).to(dtype)
    depth[depth < 300] = 0
    ids = torch.arange(first_id, first_id + count)
    return Batch(views=[images, depth], ids=ids, epochs=torch.zeros_like(ids), labels=torch.zeros_like(ids), seed=0)


def squares(picture: torch.Tensor) -> list[torch.Tensor]:
    """The patches of one picture, each (channels, rows, columns)."""
    return [
        picture[:, top : top + PATCH, left : left + PATCH]
        for top in range(0, SIZE, PATCH)
        for left in range(0, SIZE, PATCH)
    ]


def slow_attention(asking, context, decoder):
    query, key, value = (
        slow_linear(x, layer)
        for x, layer in ((asking, decoder.query), (context, decoder.key), (context, decoder.value))
    )
    dim, heads = DIM // HEADS, []
    for head in range(HEADS):
        part = slice(head * dim, (head + 1) * dim)
        weights = torch.exp(query[:, part] @ key[:, part].T / math.sqrt(dim))
        heads.append(weights / weights.sum(-1, keepdim=True) @ value[:, part])
    return slow_linear(torch.cat(heads, dim=-1), decoder.attended)


def slow_seen(batch: Batch, row: int, num_visible: int) -> list[list[int]]:
    """Which patches of the image and of the depth map the encoder sees."""
    share = float(batch.uniforms("multi_mae/share", 1)[row])
    noise = batch.uniforms("multi_mae/mask", 2 * NUM)[row].tolist()
    fewest, most = max(0, num_visible - NUM), min(num_visible, NUM)
    of_image = round(fewest + share * (most - fewest))
    order = [sorted(range(NUM), key=lambda patch: noise[first + patch]) for first in (0, NUM)]
    return [sorted(order[IMAGE][:of_image]), sorted(order[DEPTH][: num_visible - of_image])]


def slow_decoded(decoder, tokens, seen, modality):
    """What a decoder says of all patches of its own kind."""
    positions, embedded = slow_positions(DIM, GRID), slow_linear(tokens, decoder.embed)
    visible = [(kind, patch) for kind in (IMAGE, DEPTH) for patch in seen[kind]]
    context, asking = [embedded[0]], []
    for number, (kind, patch) in enumerate(visible, 1):
        context.append(embedded[number] + positions[patch] + decoder.kinds[0, kind, 0])
    for patch in range(NUM):
        known = (modality, patch) in visible
        own = embedded[1 + visible.index((modality, patch))] if known else decoder.mask_token[0, 0]
        asking.append(own + positions[patch] + decoder.kinds[0, modality, 0])
    x, context = torch.stack(asking), torch.stack(context)
    x = x + slow_attention(slow_norm(x, decoder.query_norm), slow_norm(context, decoder.context_norm), decoder)
    hidden = slow_linear(slow_norm(x, decoder.mlp_norm), decoder.mlp.fc1)
    x = x + slow_linear(0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))), decoder.mlp.fc2)
    for block in decoder.blocks:
        x = slow_block(x, block, HEADS)
    return slow_linear(slow_norm(x, decoder.norm), decoder.predict)


def slow_loss(method: MultiMAE, batch: Batch, normalize: bool) -> torch.Tensor:
    vit, positions, losses = method.encoder, slow_positions(method.encoder.embed_dim, GRID), []
    depths, known = standard_depth(batch.views[1])
    for row, (image, depth) in enumerate(zip(batch.views[0], depths, strict=True)):
        seen, pictures = slow_seen(batch, row, method.num_visible), (squares(image), squares(depth))
        tokens = [vit.cls_token[0, 0]]
        for kind, projection in ((IMAGE, vit.patch_embed.proj), (DEPTH, method.depth_projection)):
            for patch in seen[kind]:
                token = (projection.weight * pictures[kind][patch]).sum(dim=(1, 2, 3)) + projection.bias
                tokens.append(token + positions[patch])
        tokens = torch.stack(tokens)
        for block in vit.blocks:
            tokens = slow_block(tokens, block, 3)
        tokens = slow_norm(tokens, vit.norm)
        of_image, of_depth = [], []
        predicted = slow_decoded(method.image_decoder, tokens, seen, IMAGE)
        for patch in set(range(NUM)) - set(seen[IMAGE]):
            target = pictures[IMAGE][patch].permute(1, 2, 0).reshape(-1)
            if normalize:
                target = (target - target.mean()) / torch.sqrt(target.var() + 1e-6)
            of_image.append(((predicted[patch] - target) ** 2).mean())
        predicted = slow_decoded(method.depth_decoder, tokens, seen, DEPTH)
        for patch in set(range(NUM)) - set(seen[DEPTH]):
            target, measured = pictures[DEPTH][patch].reshape(-1), squares(known[row])[patch].reshape(-1)
            of_depth += [(predicted[patch][k] - target[k]).abs() for k in range(PATCH**2) if measured[k]]
        parts = [torch.stack(part).mean() for part in (of_image, of_depth) if part]
        losses.append(torch.stack(parts).sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("normalize", "ratio"), [(True, 0.75), (False, 0.4)])
def test_loss_and_gradients_equal_the_slow_reference(normalize, ratio):
    method, batch = make(normalize_targets=normalize, mask_ratio=ratio).double(), make_batch(4)
    with torch.no_grad():  # sin-cos tables are float32; the reference has them exactly
        method.encoder.pos_embed[0, 1:] = slow_positions(method.encoder.embed_dim, GRID)
        for decoder in (method.image_decoder, method.depth_decoder):
            decoder.positions.copy_(slow_positions(DIM, GRID))
    fast, slow = method(batch), slow_loss(method, batch, normalize)
    names, parameters = zip(*((n, p) for n, p in method.named_parameters() if p.requires_grad), strict=True)
    assert fast["loss"].item() == pytest.approx(slow.item(), rel=1e-12)
    assert (fast["image_loss"] + fast["depth_loss"]).item() == pytest.approx(slow.item(), rel=1e-12)
    pairs = zip(
        names, torch.autograd.grad(fast["loss"], parameters), torch.autograd.grad(slow, parameters), strict=True
    )
    for name, ours, theirs in pairs:
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-12), name


def test_views_are_a_crop_of_the_encoders_size_and_its_depth():
    crop, depth = make(flip=0.0).views().views
    assert isinstance(crop, RandomView) and (crop.size, crop.flip) == (SIZE, 0.0)
    assert depth == DepthView(of=0)


def test_shares_are_the_samples_own_and_even_between_all_of_one_and_all_of_the_other():
    """Of 8 visible patches 0, 1, .., 8 are the image's: a Dirichlet distribution of concentration 1, rounded."""
    method = make()
    assert method.num_visible == 8
    visible, seen = method.visible(make_batch(4000))
    assert torch.equal(visible, torch.stack([row.nonzero().flatten() for row in seen.flatten(1)]))
    counts = np.bincount(seen[:, IMAGE].sum(1).numpy(), minlength=9)
    expected = 4000 / 8 * np.array([0.5, *[1] * 7, 0.5])
    assert np.abs(counts - expected).max() < 5 * np.sqrt(500)
    assert (seen.float().mean((0, 1)) - 0.25).abs().max() < 0.04, "every place as often"
    again, _ = method.visible(make_batch(4, first_id=2))
    assert torch.equal(again, visible[2:6])
    later = make_batch(6)
    later.epochs = later.epochs + 1
    assert not torch.equal(method.visible(later)[0], visible[:6])


def test_more_visible_patches_than_an_image_has_are_dealt_out_to_both_evenly():
    """Of 24 visible patches of 2 x 16 the image has 8 to 16, the ends half as often as each number between."""
    _, seen = make(mask_ratio=0.25).visible(make_batch(4000))
    assert (seen.sum((1, 2)) == 24).all()
    counts = np.bincount(seen[:, IMAGE].sum(1).numpy(), minlength=17)
    assert counts[:8].sum() == 0
    assert np.abs(counts[8:] - 4000 / 8 * np.array([0.5, *[1] * 7, 0.5])).max() < 5 * np.sqrt(500)


def test_queries_keys_and_values_are_initialised_each_by_itself():
    """Xavier's bound of a matrix of D x D, which one of 3 D x D has not."""
    method = make()
    width = method.encoder.embed_dim
    for part, dim in ((method.encoder.blocks[0], width), (method.image_decoder.blocks[0], DIM)):
        bound = math.sqrt(6 / (2 * dim)) * (1 + 1e-6)
        largest = part.attn.qkv.weight.abs().amax(1).view(3, dim).amax(1)
        assert (largest <= bound).all() and (largest > 0.95 * bound).all()


def test_tokens_do_not_decay():
    method = make()
    decaying, spared = parameter_groups(method, 0.05)
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    tokens = {"encoder.cls_token"}
    tokens |= {f"{kind}_decoder.{token}" for kind in ("image", "depth") for token in ("mask_token", "kinds")}
    assert {names[id(p)] for p in spared["params"] if p.ndim > 1} == tokens
    assert not tokens & {names[id(p)] for p in decaying["params"]} and spared["weight_decay"] == 0


def test_what_is_masked_does_not_reach_the_encoder():
    method, batch = make().double(), make_batch()
    depth, _ = standard_depth(batch.views[1])
    visible, seen = method.visible(batch)
    changed = []
    for picture, shown in zip((batch.views[0], depth), seen.unbind(1), strict=True):
        patches = patchify(picture, PATCH)
        changed.append(unpatchify(torch.where(shown[..., None], patches, 9.0), PATCH, (GRID, GRID)))
    with torch.no_grad():
        assert all(
            map(torch.equal, method.reconstruct(*changed, visible), method.reconstruct(batch.views[0], depth, visible))
        )


def test_a_sample_without_any_depth_learns_from_its_image():
    method, batch = make(), make_batch(dtype=torch.float32)
    batch.views[1].zero_()
    found = method(batch)
    found["loss"].backward()
    assert found["depth_loss"] == 0 and found["image_loss"] > 0
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)


def test_encoder_state_loads_into_timm_unchanged():
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=PATCH))
    method = MultiMAE.Config(decoder_dim=24, decoder_depth=1, decoder_heads=3).build(encoder, SIZE)
    plain = timm.create_model("vit_tiny_patch16_224", img_size=SIZE, patch_size=PATCH, num_classes=0)
    plain.load_state_dict(method.encoder.state_dict(), strict=True)
    images = make_batch(dtype=torch.float32).views[0]
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), method.eval().encode(images))


def test_a_picture_keeps_what_was_visible_of_both():
    method, batch = make(), make_batch(dtype=torch.float32)
    image, image_seen, image_filled, depth, depth_seen, depth_filled = method.picture(batch)
    assert torch.equal(image, batch.views[0])
    assert torch.equal(depth, standard_depth(batch.views[1])[0].expand(-1, 3, -1, -1))
    _, seen = method.visible(batch)
    for kind, original, shown, filled in (
        (IMAGE, image, image_seen, image_filled),
        (DEPTH, depth, depth_seen, depth_filled),
    ):
        visible = seen[:, kind].view(-1, 1, GRID, GRID).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
        assert torch.equal(shown, torch.where(visible, original, 0))
        assert torch.equal(filled[visible.expand_as(filled)], original[visible.expand_as(filled)])
        assert not torch.allclose(filled, original)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratio": 0.99}, r"objective\.mask_ratio 0\.99: nothing visible of 2 x 16 patches; lower it"),
        ({"mask_ratio": 1e-17}, r"objective\.mask_ratio 1e-17: nothing masked of 2 x 16 patches; raise it"),
        ({"crop_scale": (0.0, 1.0)}, r"objective\.crop_scale \(0\.0, 1\.0\): each must be above 0 and at most 1"),
        ({"crop_scale": (0.9, 0.2)}, r"objective\.crop_scale \(0\.9, 0\.2\): must have the smaller area first"),
        ({"decoder_heads": 5}, r"objective\.decoder_dim 24: must be a multiple of objective\.decoder_heads 5"),
    ],
)
def test_wrong_numbers_name_their_field(changes, message):
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=PATCH))
    with pytest.raises(UserError, match=message):
        MultiMAE.Config(**{"decoder_dim": 24, "decoder_heads": 3, **changes}).build(encoder, SIZE)


def test_needs_a_vision_transformer():
    with pytest.raises(UserError, match="MultiMAE needs a plain vision transformer"):
        MultiMAE.Config().build(make_encoder(EncoderConfig(name="test_resnet")), 160)


def test_the_recipe_has_the_papers_numbers():
    run = make_run("multi_mae_vitb16_in1k")
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(1e-4 * 2048 / 256)
    assert (run.optim.betas, run.optim.weight_decay) == ((0.9, 0.95), 0.05)
    assert run.steps == pytest.approx(1600 * 1_281_167 / 2048, abs=1)
    assert run.optim.warmup_steps == pytest.approx(40 * 1_281_167 / 2048, abs=1)
    config = run.objective
    assert (config.decoder_dim, config.decoder_depth, config.decoder_heads) == (256, 2, 8)
    assert int(2 * 196 * (1 - config.mask_ratio)) == 98
