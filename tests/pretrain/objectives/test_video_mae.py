"""VideoMAE against a slow reference in float64, written cube by cube, and what its image tower is of an image."""

import math

import pytest
import timm
import torch
from slow_vit import slow_block, slow_linear, slow_norm, slow_positions

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.video_mae import VideoMAE
from eyespot.pretrain.recipe_lookup import make_run

SIZE, PATCH, GRID, FRAMES, TIMES, DIM = 16, 4, 4, 6, 3, 24
PLACES = GRID * GRID


def make_video_mae(frames: int = FRAMES, **changes) -> VideoMAE:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=PATCH))
    encoder.blocks = encoder.blocks[:2]
    view = RandomView(clip=Clip(frames))
    config = VideoMAE.Config(decoder_dim=DIM, decoder_depth=2, decoder_heads=3, view=view, **changes)
    objective = config.build(encoder, SIZE)
    with torch.no_grad():  # what begins at zero; let the comparison see it
        objective.motion.weight += 0.1 * torch.randn_like(objective.motion.weight)
        for parameter in objective.parameters():
            if parameter.requires_grad and parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return objective


def make_batch(count: int = 2, first_id: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(count, FRAMES, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    ids = torch.arange(first_id, first_id + count)
    return Batch(views=[clips], ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def slow_times(dim: int) -> torch.Tensor:
    rows = []
    for time in range(TIMES):
        angles = [time / 10000 ** (2 * i / dim) for i in range(dim // 2)]
        rows.append([*map(math.sin, angles), *(math.cos(angle) - 1 for angle in angles)])
    return torch.tensor(rows, dtype=torch.float64)


def slow_loss(objective: VideoMAE, batch: Batch, normalize: bool) -> torch.Tensor:
    vit, losses = objective.encoder, []
    kernel, moving = vit.patch_embed.proj, objective.motion.weight
    places, times = slow_positions(vit.embed_dim, GRID), slow_times(vit.embed_dim)
    for clip, noise in zip(batch.views[0], batch.uniforms("video_mae/mask", PLACES), strict=True):
        ranked = sorted(range(PLACES), key=lambda place: (float(noise[place]), place))
        visible = set(ranked[: PLACES - int(0.9 * PLACES)])
        tokens, pixels = {}, {}
        for time in range(TIMES):
            for place in range(PLACES):
                top, left = place // GRID * PATCH, place % GRID * PATCH
                first, second = clip[2 * time : 2 * time + 2, :, top : top + PATCH, left : left + PATCH]
                # a 3-D convolution whose kernels for the two frames are these
                token = ((kernel.weight - moving) * first + moving * second).sum(dim=(1, 2, 3)) + kernel.bias
                tokens[time, place] = token + places[place] + times[time]
                pixels[time, place] = torch.cat([frame.permute(1, 2, 0).reshape(-1, 3) for frame in (first, second)])
        seen = [cube for cube in tokens if cube[1] in visible]
        encoded = torch.stack([vit.cls_token[0, 0], *(tokens[cube] for cube in seen)])
        for block in vit.blocks:
            encoded = slow_block(encoded, block, 3)
        embedded = slow_linear(slow_norm(encoded, vit.norm), objective.decoder_embed)
        decoded, cubes = [embedded[0]], list(tokens)
        places_of_decoder, times_of_decoder = slow_positions(DIM, GRID), slow_times(DIM)
        for time, place in cubes:
            known = (time, place) in seen
            token = embedded[1 + seen.index((time, place))] if known else objective.mask_token[0, 0]
            decoded.append(token + places_of_decoder[place] + times_of_decoder[time])
        decoded = torch.stack(decoded)
        for block in objective.decoder_blocks:
            decoded = slow_block(decoded, block, 3)
        predicted = slow_linear(slow_norm(decoded, objective.decoder_norm), objective.decoder_pred)[1:]
        for guess, cube in zip(predicted, cubes, strict=True):
            if cube[1] not in visible:
                target = pixels[cube]
                if normalize:
                    target = (target - target.mean(0)) / (target.var(0).sqrt() + 1e-6)
                losses.append(((guess - target.reshape(-1)) ** 2).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("normalize", [True, False])
def test_loss_and_gradients_equal_the_slow_reference(normalize):
    objective, batch = make_video_mae(normalize_targets=normalize).double(), make_batch()
    with torch.no_grad():  # tables are float32; the reference has them exactly
        objective.encoder.pos_embed[0, 1:] = slow_positions(objective.encoder.embed_dim, GRID)
        objective.time_positions.copy_(slow_times(objective.encoder.embed_dim))
        table = slow_positions(DIM, GRID) + slow_times(DIM)[:, None]
        objective.decoder_positions.copy_(table.flatten(0, 1)[None])
    fast, slow = objective(batch)["loss"], slow_loss(objective, batch, normalize)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    names, parameters = zip(*((n, p) for n, p in objective.named_parameters() if p.requires_grad), strict=True)
    ours, theirs = (torch.autograd.grad(loss, parameters) for loss in (fast, slow))
    for name, one, other in zip(names, ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-12), name


def test_an_image_is_a_clip_in_which_nothing_moves():
    """So the released tower, timm's own, is what was trained."""
    objective = make_video_mae(frames=2).double().eval()
    plain = timm.create_model("vit_tiny_patch16_224", img_size=SIZE, patch_size=PATCH, num_classes=0)
    plain.blocks = plain.blocks[:2]
    plain.load_state_dict(objective.encoder.state_dict(), strict=True)
    image = make_batch().views[0][:, 0]
    everything = torch.arange(PLACES).expand(len(image), -1)
    with torch.no_grad():
        seen = objective.see(torch.stack([image, image], dim=1), everything)
        assert torch.allclose(seen, plain.double().eval().forward_features(image), atol=1e-12)


def test_the_mask_is_a_tube_and_the_samples_own():
    objective = make_video_mae()
    together, shifted = objective.mask_order(make_batch(6)), objective.mask_order(make_batch(4, first_id=2))
    assert torch.equal(together[2:], shifted)
    assert together.sort(dim=1).values.tolist() == [list(range(TIMES * PLACES))] * 6
    visible = together[:, : objective.num_visible].unflatten(1, (TIMES, -1))
    assert visible.shape[2] == 2  # of 16 places
    for time in range(TIMES):
        assert torch.equal(visible[:, time], visible[:, 0] + time * PLACES)


def test_of_196_places_20_are_seen_as_the_authors_do():
    objective = make_video_mae()
    assert objective.visible_of(196) == 20


def test_what_is_masked_does_not_reach_the_encoder():
    objective, batch = make_video_mae().double(), make_batch()
    order = objective.mask_order(batch)
    patches = objective.patches(batch.views[0])
    hidden = order[:, objective.num_visible :, None].expand(-1, -1, patches.shape[-1])
    changed = objective.frames(patches.scatter(1, hidden, torch.full_like(patches, 9.0)))
    with torch.no_grad():
        assert torch.equal(objective.reconstruct(batch.views[0], order), objective.reconstruct(changed, order))


def test_cubes_and_back():
    objective, clips = make_video_mae(), make_batch().views[0]
    assert torch.equal(objective.frames(objective.patches(clips)), clips)


def test_the_picture_keeps_what_is_visible():
    objective, batch = make_video_mae(), make_batch()
    batch.views[0] = batch.views[0].float()
    shown, seen, filled = objective.picture(batch)
    assert torch.equal(shown, batch.views[0][0])
    visible = seen != 0
    assert visible.float().mean() == pytest.approx(2 / 16, abs=0.01)
    assert torch.equal(filled[visible], shown[visible])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"view": RandomView(clip=Clip(5))}, r"view\.clip\.frames 5: must be even"),
        ({"view": RandomView()}, r"view\.clip None"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"decoder_dim": 10, "decoder_heads": 3}, "decoder_dim"),
    ],
)
def test_wrong_numbers_name_their_field(changes, field):
    with pytest.raises(UserError, match=field):
        VideoMAE.Config(**changes)


def test_on_kinetics_it_has_the_authors_numbers():
    """The script scripts/kinetics/videomae_vit_base_patch16_224_tubemasking_ratio_0.9_epoch_1600/pretrain.sh."""
    run = make_run("video_mae_vitb16_k400")
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(1.5e-4 * 2048 / 256)
    assert (run.optim.betas, run.optim.weight_decay, run.optim.clip) == ((0.9, 0.95), 0.05, None)
    assert run.steps == pytest.approx(1600 * 240_436 / 2048, abs=1)
    objective = run.objective
    assert (objective.mask_ratio, objective.normalize_targets) == (0.9, True)
    assert (objective.view.clip.frames, objective.view.clip.stride) == (16, 4)
    assert (objective.decoder_dim, objective.decoder_depth, objective.decoder_heads) == (384, 4, 6)
