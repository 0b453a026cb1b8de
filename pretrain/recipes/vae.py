"""VAE recipes. Base learning rates are per 256 images. The paper has no large images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.vae import VAE
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits
from eyespot.pretrain.recipes.gate import SMALL_VIT, Gate


def vae_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs, 128 latents."""
    return on_cifar10(VAE.Config(view=RandomView(scale=(0.5, 1.0))), lr=1e-3)


def vae_tiny() -> Run:
    """A very small ResNet on the built-in digits, 16 latents: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    return on_digits(VAE.Config(latent_dim=16, hidden_dim=32, view=view))


GATE = Gate(
    vae_r18_cifar10,
    SMALL_VIT,
    steps=400,
    batch_size=128,
    changes="--optim.lr 4e-3 --objective.hidden-dim 64 --objective.deviation 0.3",
)
