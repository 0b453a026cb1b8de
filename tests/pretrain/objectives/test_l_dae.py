"""l-DAE against a slow, obvious reference in float64, written patch by patch and component by component."""

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
from eyespot.pretrain.objectives.l_dae import LDAE
from eyespot.pretrain.recipe_lookup import make_run

SIZE, PATCH, GRID, DIM, LATENTS, VALUES = 16, 4, 4, 24, 5, 48


def make_images(count: int = 8, seed: int = 1) -> torch.Tensor:
    """Neighbours are alike, as in images."""
    noise = torch.randn(count, 3, SIZE + 2, SIZE + 2, generator=torch.Generator().manual_seed(seed)).double()
    return 3 * torch.nn.functional.avg_pool2d(noise, 3, stride=1) + 0.2


def make_objective(**changes) -> LDAE:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=PATCH))
    encoder.blocks = encoder.blocks[:2]
    config = LDAE.Config(
        **{"decoder_dim": DIM, "decoder_depth": 2, "decoder_heads": 3, "latent_dim": LATENTS} | changes
    )
    objective = config.build(encoder, SIZE).double()
    with torch.no_grad():  # biases start at zero, tables are float32; the reference has both otherwise
        for parameter in objective.parameters():
            if parameter.requires_grad and parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
        objective.encoder.pos_embed[0, 1:] = slow_positions(objective.encoder.embed_dim, GRID)
        objective.decoder_positions[0] = slow_positions(DIM, GRID)
    objective.refresh(objective.refresh_features(make_images(40, seed=2)))
    return objective


def make_batch(count: int = 3, first: int = 0) -> Batch:
    ids = torch.arange(first, first + count)
    return Batch(views=[make_images()[ids]], ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def all_components() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, directions as rows, variances: all 48."""
    patches = patchify(make_images(40, seed=2), PATCH).flatten(0, 1)
    centred = patches - patches.mean(0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    return patches.mean(0), directions, values**2 / len(patches)


def slow_loss(objective: LDAE, batch: Batch):
    """One image, one patch, one component after the other."""
    vit, config, losses, plain = objective.encoder, objective.config, [], []
    mean, directions, variances = all_components()
    spread = math.sqrt(sum(variances[:LATENTS].tolist()) / LATENTS)
    draws = batch.uniforms("l_dae/deviation", 1)[:, 0].tolist()
    noises = normal_noise(batch, "l_dae", (16, LATENTS)).double()
    # the signs of components are free: noise is along those that the objective has
    signs = [math.copysign(1, float(objective.basis[:, i] @ directions[i])) for i in range(LATENTS)]
    for image, noise, draw in zip(batch.views[0], noises, draws, strict=True):
        deviation = config.deviation * (draw if config.levels == "many" else 1)
        clean, seen = patchify(image[None], PATCH)[0], []
        for patch, along in zip(clean, noise, strict=True):
            noisy = mean.clone()
            for i in range(LATENTS):
                direction = signs[i] * directions[i]
                noisy = noisy + direction * ((patch - mean) @ direction + deviation * spread * along[i])
            seen.append(noisy)
        weight = vit.patch_embed.proj.weight.permute(0, 2, 3, 1).flatten(1)  # row, column, channel
        tokens = torch.stack([weight @ patch + vit.patch_embed.proj.bias for patch in seen])
        tokens = torch.cat([vit.cls_token[0], tokens + slow_positions(vit.embed_dim, GRID)])
        for block in vit.blocks:
            tokens = slow_block(tokens, block, 3)
        tokens = slow_linear(slow_norm(tokens, vit.norm), objective.decoder_embed)
        tokens = torch.cat([tokens[:1], tokens[1:] + slow_positions(DIM, GRID)])
        for block in objective.decoder_blocks:
            tokens = slow_block(tokens, block, 3)
        said = slow_linear(slow_norm(tokens, objective.decoder_norm), objective.decoder_pred)[1:]
        for one, other in zip(said, clean, strict=True):
            parts = [((one - other) @ direction) ** 2 for direction in directions]
            weights = [1.0] * LATENTS + [config.residual_weight] * (VALUES - LATENTS)
            total = sum(w * part for w, part in zip(weights, parts, strict=True)) / VALUES
            losses.append(total / (1 + deviation**2))
            plain.append(((one - other) ** 2).mean())
    return torch.stack(losses).mean(), torch.stack(plain).mean()


@pytest.mark.parametrize("changes", [{}, {"levels": "one", "deviation": 0.6, "residual_weight": 0.5}])
def test_loss_and_gradients_equal_the_slow_reference(changes):
    objective, batch = make_objective(**changes), make_batch()
    named = [(name, parameter) for name, parameter in objective.named_parameters() if parameter.requires_grad]
    names, parameters = zip(*named, strict=True)
    found, (slow, plain) = objective(batch), slow_loss(objective, batch)
    assert found["loss"].item() == pytest.approx(slow.item(), rel=1e-10)
    assert found["error"].item() == pytest.approx(plain.item(), rel=1e-10)
    gradients = torch.autograd.grad(found["loss"], parameters), torch.autograd.grad(slow, parameters)
    for name, ours, theirs in zip(names, *gradients, strict=True):
        assert (ours - theirs).abs().max() <= 1e-9, name
        assert theirs.abs().max() > 1e-8, name


def test_components_are_in_the_checkpoint_and_the_same_again():
    objective, other = make_objective(), make_objective(decoder_depth=1)
    for name in ("mean", "basis", "spread"):
        assert torch.equal(objective.state_dict()[name], other.state_dict()[name])
    assert torch.allclose(objective.basis.T @ objective.basis, torch.eye(LATENTS).double())


def test_what_is_no_part_of_the_latents_does_not_reach_the_encoder():
    objective, batch = make_objective(), make_batch()
    patches = patchify(batch.views[0], PATCH)
    _, directions, _ = all_components()
    deviations = objective.deviations(batch)
    seen = objective.noised(batch, patches, deviations)
    assert torch.allclose(objective.noised(batch, patches + directions[LATENTS + 3], deviations), seen)
    assert not torch.allclose(objective.noised(batch, patches + directions[1], deviations), seen)


def test_noise_is_the_samples_own_and_new_in_each_epoch():
    objective, all_of_it = make_objective(), make_batch(8)
    part, later = make_batch(3, first=2), make_batch(8)
    later.epochs = later.epochs + 1
    assert torch.equal(objective.picture(part)[0], objective.picture(all_of_it)[0, 2:5])
    assert not torch.equal(objective.picture(later)[0], objective.picture(all_of_it)[0])
    assert torch.equal(objective.picture(part)[2], part.views[0].float())


def test_patches_that_are_all_alike_leave_finite_numbers():
    objective, batch = make_objective(), make_batch()
    objective.refresh(objective.refresh_features(torch.zeros(10, 3, SIZE, SIZE).double()))
    assert objective(batch)["loss"].isfinite()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": 49}, r"objective\.latent_dim 49: a patch of 4 pixels has 48 components"),
        ({"deviation": 0.0}, r"objective\.deviation 0"),
        ({"residual_weight": 1.5}, r"objective\.residual_weight 1\.5"),
    ],
)
def test_wrong_numbers_name_their_field(changes, message):
    with pytest.raises(UserError, match=message):
        make_objective(**changes)


def test_on_imagenet_it_has_the_papers_numbers():
    """Chen et al. 2024: 16 latents of patches of 16 pixels, a tenth for the others; rates of appendix A."""
    run = make_run("l_dae_vitl16_in1k")
    config = run.objective
    assert (config.latent_dim, config.levels, config.residual_weight) == (16, "many", 0.1)
    assert config.deviation == pytest.approx(2**0.5)
    assert run.steps == pytest.approx(400 * 1_281_167 / 2048, abs=1) and run.data.batch_size == 2048
    assert run.optim.warmup_steps == pytest.approx(100 * 1_281_167 / 2048, abs=1)
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(8e-4)
    assert run.optim.weight_decay == 0
