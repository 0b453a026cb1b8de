"""Diffusion against a slow, obvious reference in float64, written patch by patch from the paper."""

import math

import pytest
import torch
from slow_vit import slow_block, slow_linear, slow_norm, slow_positions

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.noise import normal_noise
from eyespot.pretrain.images.patchify import patchify
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.diffusion import Diffusion
from eyespot.pretrain.recipe_lookup import make_run

SIZE, PATCH, GRID, DIM = 16, 4, 4, 24


def make_objective(**changes) -> Diffusion:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=PATCH))
    encoder.blocks = encoder.blocks[:2]
    config = Diffusion.Config(decoder_dim=DIM, decoder_depth=2, decoder_heads=3, **changes)
    objective = config.build(encoder, SIZE).double()
    with torch.no_grad():  # biases start at zero, tables are float32; the reference has both otherwise
        for parameter in objective.parameters():
            if parameter.requires_grad and parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
        objective.encoder.pos_embed[0, 1:] = slow_positions(objective.encoder.embed_dim, GRID)
        objective.decoder_positions[0] = slow_positions(DIM, GRID)
        objective.kept.copy_(torch.tensor(slow_kept(objective.config), dtype=torch.float64))
        frequencies = [10_000 ** (-wave / (DIM / 2)) for wave in range(DIM // 2)]
        objective.frequencies.copy_(torch.tensor(frequencies, dtype=torch.float64))
    return objective


def make_batch(count: int = 3, first: int = 0) -> Batch:
    images = torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).double()
    ids = torch.arange(first, first + count)
    return Batch(views=[images[ids]], ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def slow_kept(config: Diffusion.Config) -> list[float]:
    kept, product, (first, last) = [], 1.0, config.betas
    for step in range(config.num_times):
        product *= 1 - (first + (last - first) * step / max(1, config.num_times - 1))
        kept.append(product)
    return kept


def squares_of(image):
    """Patch by patch: row, column, channel."""
    for patch in range(GRID * GRID):
        top, left = patch // GRID * PATCH, patch % GRID * PATCH
        yield image[:, top : top + PATCH, left : left + PATCH]


def slow_loss(objective: Diffusion, batch: Batch):
    """One image at a time."""
    vit, losses, alone = objective.encoder, [], []
    draws = batch.uniforms("diffusion/time", 1)[:, 0].tolist()
    noises = normal_noise(batch, "diffusion", (3, SIZE, SIZE)).double()
    for image, noise, draw in zip(batch.views[0], noises, draws, strict=True):
        time = math.floor(draw * objective.config.num_times) + 1
        kept = slow_kept(objective.config)[time - 1]
        noisy = math.sqrt(kept) * image + math.sqrt(1 - kept) * noise
        projection = vit.patch_embed.proj
        tokens = [(projection.weight * square).sum(dim=(1, 2, 3)) + projection.bias for square in squares_of(noisy)]
        tokens = torch.stack(tokens) + slow_positions(vit.embed_dim, GRID)
        tokens = torch.cat([vit.cls_token[0], tokens])
        for block in vit.blocks:
            tokens = slow_block(tokens, block, 3)
        tokens = slow_linear(slow_norm(tokens, vit.norm), objective.decoder_embed)
        angles = [time * 10_000 ** (-wave / (DIM / 2)) for wave in range(DIM // 2)]
        waves = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)
        first, _, second = objective.decoder_time
        hidden = slow_linear(waves, first)
        told = slow_linear(hidden * torch.sigmoid(hidden), second)
        decoded = [tokens[0]]
        for place, square in enumerate(squares_of(noisy)):
            seen = slow_linear(square.permute(1, 2, 0).reshape(-1), objective.decoder_noisy)
            decoded.append(tokens[1 + place] + slow_positions(DIM, GRID)[place] + seen + told)
        decoded = torch.stack(decoded)
        for block in objective.decoder_blocks:
            decoded = slow_block(decoded, block, 3)
        said = slow_linear(slow_norm(decoded, objective.decoder_norm), objective.decoder_pred)[1:]
        for patch, square in zip(said, squares_of(noise), strict=True):
            losses.append(((patch - square.permute(1, 2, 0).reshape(-1)) ** 2).mean())
        alone.append(((math.sqrt(1 - kept) * noisy - noise) ** 2).mean())
    return torch.stack(losses).mean(), torch.stack(alone).mean()


@pytest.mark.parametrize("changes", [{}, {"num_times": 7, "betas": (0.1, 0.4)}])
def test_loss_and_gradients_equal_the_slow_reference(changes):
    objective, batch = make_objective(**changes), make_batch()
    named = [(name, parameter) for name, parameter in objective.named_parameters() if parameter.requires_grad]
    names, parameters = zip(*named, strict=True)
    found, (slow, alone) = objective(batch), slow_loss(objective, batch)
    assert found["loss"].item() == pytest.approx(slow.item(), rel=1e-10)
    assert found["error_pixelwise"].item() == pytest.approx(alone.item(), rel=1e-10)
    gradients = torch.autograd.grad(found["loss"], parameters), torch.autograd.grad(slow, parameters)
    for name, ours, theirs in zip(names, *gradients, strict=True):
        assert (ours - theirs).abs().max() <= 1e-10, name
        assert theirs.abs().max() > 1e-8, name


def test_tables_are_those_of_the_paper_to_single_precision():
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=PATCH))
    objective = Diffusion.Config(decoder_dim=DIM, decoder_heads=3).build(encoder, SIZE)
    assert torch.allclose(objective.kept, torch.tensor(slow_kept(objective.config)), rtol=1e-6)
    assert objective.kept[0].item() == pytest.approx(0.9999)
    assert objective.kept[-1].item() == pytest.approx(4.04e-5, rel=0.01)
    assert not {"kept", "frequencies", "decoder_positions"} & objective.state_dict().keys()


def what_was_seen(objective: Diffusion, batch: Batch) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = objective.encoder.patch_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    objective(batch)
    handle.remove()
    return seen[0]


def test_noise_and_time_are_the_samples_own_and_new_in_each_epoch():
    objective, all_of_it = make_objective(), make_batch(8)
    part, later = make_batch(3, first=2), make_batch(8)
    later.epochs = later.epochs + 1
    assert torch.equal(objective.times(part), objective.times(all_of_it)[2:5])
    assert not torch.equal(objective.times(later), objective.times(all_of_it))
    seen = [what_was_seen(objective, batch) for batch in (part, all_of_it, later)]
    assert torch.equal(seen[0], seen[1][2:5])
    kept = objective.kept_at(objective.times(all_of_it)), objective.kept_at(objective.times(later))
    noises = [
        (noisy - share.sqrt() * all_of_it.views[0]) / (1 - share).sqrt()
        for noisy, share in zip(seen[1:], kept, strict=True)
    ]
    assert abs(torch.corrcoef(torch.stack([noise.flatten() for noise in noises]))[0, 1]) < 0.05


def test_times_are_drawn_evenly_from_first_to_last():
    objective, ids = make_objective(num_times=4), torch.arange(2000)
    batch = Batch(views=[ids], ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)
    counts = torch.bincount(objective.times(batch), minlength=6)
    assert counts[0] == counts[5] == 0
    assert ((counts[1:5] - 500).abs() < 5 * math.sqrt(2000 * 0.25 * 0.75)).all()


def test_saying_nothing_costs_one():
    objective, batch = make_objective(), make_batch(8)
    with torch.no_grad():
        objective.decoder_pred.weight.zero_()
        objective.decoder_pred.bias.zero_()
    assert objective(batch)["loss"].item() == pytest.approx(1, abs=4 * math.sqrt(2 / batch.views[0].numel()))


def test_a_picture_takes_away_what_is_said_to_be_noise():
    objective, batch = make_objective(), make_batch(8)
    noisy, cleaned, images = objective.picture(batch)
    assert torch.equal(images, batch.views[0].float())
    drawn = normal_noise(batch, "diffusion", (3, SIZE, SIZE))
    objective.noise_in = lambda *_: patchify(drawn, PATCH)
    assert not torch.allclose(cleaned, images, atol=0.1)
    assert torch.allclose(objective.picture(batch)[1], images, atol=1e-4)
    assert torch.allclose(noisy, objective.picture(batch)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"betas": (0.02, 1e-4)}, r"objective\.betas"),
        ({"betas": (0.0, 0.02)}, r"objective\.betas"),
        ({"num_times": 0}, r"objective\.num_times 0"),
    ],
)
def test_wrong_numbers_name_their_field(changes, message):
    with pytest.raises(UserError, match=message):
        Diffusion.Config(**changes)


def test_on_cifar_it_has_the_papers_numbers():
    """Ho et al. 2020, appendix B: T, betas, 800,000 steps of 128 at 2e-4 with Adam, random flips."""
    run = make_run("diffusion_vits_cifar10")
    assert (run.objective.num_times, run.objective.betas) == (1000, (1e-4, 0.02))
    assert run.steps == 800_000 and run.data.batch_size == 128
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(2e-4)
    assert (run.optim.name, run.optim.weight_decay) == ("adamw", 0.0)
    assert (run.optim.betas, run.optim.clip) == ((0.9, 0.999), 1.0)
    assert make_run("diffusion_vitb16_in1k").optim.betas == (0.9, 0.999), "DiT's, which are the same"
    assert (run.objective.view.scale, run.objective.view.ratio, run.objective.view.flip) == (
        (1.0, 1.0),
        (1.0, 1.0),
        0.5,
    )
