"""VAE: the bound against torch's own distributions, image by image; its noise and its pictures."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.noise import normal_noise
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.vae import VAE, divergence

COUNT, SIZE, LATENTS = 6, 16, 8


def make_objective(**changes) -> VAE:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    return VAE.Config(latent_dim=LATENTS, hidden_dim=16, **changes).build(encoder, SIZE).double()


def make_batch(first: int = 0, count: int = COUNT) -> Batch:
    images = torch.randn(COUNT, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).double()
    ids = torch.arange(COUNT)[first : first + count]
    return Batch(views=[images[ids]], ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def slow_bounds(objective: VAE, batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each image the log-likelihood of one draw, and the divergence, from their definitions."""
    parts = []
    for number, image in enumerate(batch.views[0]):
        features = objective.encoder.forward_features(image[None])[0, 0]
        mean, log_variance = (objective.posterior.weight @ features + objective.posterior.bias).split(LATENTS)
        posterior = Normal(mean, log_variance.exp().sqrt())
        noise = normal_noise(make_batch(number, 1), "vae", (LATENTS,))[0]
        latents = posterior.mean + posterior.stddev * noise
        decoded = objective.decoder((objective.spread.weight @ latents + objective.spread.bias).reshape(1, 16, 4, 4))[0]
        likelihood = Normal(decoded, objective.config.deviation).log_prob(image).sum()
        parts.append((likelihood, kl_divergence(posterior, Normal(torch.zeros(LATENTS), torch.ones(LATENTS))).sum()))
    return parts


@pytest.mark.parametrize(("beta", "deviation"), [(1.0, 0.5), (4.0, 1.5)])
def test_loss_and_gradients_are_those_of_the_bound(beta, deviation):
    objective, batch = make_objective(beta=beta, deviation=deviation), make_batch()
    scalars = objective(batch)
    likelihoods, divergences = (torch.stack(part) for part in zip(*slow_bounds(objective, batch), strict=True))
    slow = (beta * divergences - likelihoods).mean() / (3 * SIZE**2)
    assert scalars["loss"].item() == pytest.approx(slow.item(), rel=1e-8)
    assert scalars["kl"].item() == pytest.approx(divergences.mean().item(), rel=1e-6)
    names, parameters = zip(*objective.named_parameters(), strict=True)
    gradients = (torch.autograd.grad(loss, parameters) for loss in (scalars["loss"], slow))
    for name, ours, theirs in zip(names, *gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-10), name


def test_the_divergence_is_torchs():
    mean, log_variance = (3 * torch.randn(5, 4, dtype=torch.float64) for _ in range(2))
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(()), torch.ones(()))).sum(1)
    assert torch.allclose(divergence(mean, log_variance), expected, rtol=1e-12)
    assert not divergence(torch.zeros(2, 3), torch.zeros(2, 3)).any()


def test_it_is_a_lower_bound():
    """With linear maps in place of networks the likelihood is known: no posterior's bound exceeds it."""
    torch.manual_seed(0)
    latents, values, deviation = 2, 5, 0.7
    weight, image = torch.randn(values, latents).double(), torch.randn(values).double()
    covariance = weight @ weight.T + deviation**2 * torch.eye(values)
    evidence = torch.distributions.MultivariateNormal(torch.zeros(values).double(), covariance).log_prob(image)
    precision = torch.eye(latents) + weight.T @ weight / deviation**2
    best = torch.linalg.solve(precision, weight.T @ image) / deviation**2
    noise = torch.randn(20_000, latents).double()
    for shift, narrower in ((0.0, 1.0), (0.5, 1.0), (0.0, 3.0)):
        mean, variance = best + shift, 1 / precision.diagonal() / narrower
        drawn = mean + variance.sqrt() * noise
        likelihood = Normal(drawn @ weight.T, deviation).log_prob(image).sum(1).mean()
        assert likelihood - divergence(mean[None], variance.log()[None])[0] < evidence


def test_noise_is_the_samples_own_and_new_in_each_epoch():
    objective, batch = make_objective(), make_batch()
    parts = [objective(make_batch(first, 2))["loss"] for first in (0, 2, 4)]
    assert objective(batch)["loss"].item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-9)
    later = make_batch()
    later.epochs = later.epochs + 1
    assert objective(later)["error"] != objective(batch)["error"]


def test_a_picture_shows_images_their_likeness_and_fixed_dreams():
    objective, batch = make_objective(), make_batch()
    images, made, blind = objective.picture(batch)
    assert torch.equal(images, batch.views[0].float())
    assert torch.allclose(made, objective.make(objective.describe(batch.views[0])[0]).float())
    batch.views = [batch.views[0] + 1]
    assert torch.equal(objective.picture(batch)[2], blind)
    assert not torch.allclose(objective.picture(batch)[1], made)
    assert (blind[1:] - blind[:1]).abs().amax((1, 2, 3)).min() > 0.01


@pytest.mark.parametrize("changes", [{"latent_dim": 0}, {"hidden_dim": 0}, {"beta": -1.0}, {"deviation": 0.0}])
def test_wrong_numbers_name_their_field(changes):
    with pytest.raises(UserError, match=f"objective.{next(iter(changes))}"):
        VAE.Config(**changes)
