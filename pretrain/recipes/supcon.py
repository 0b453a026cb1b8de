"""SupCon recipes. Base learning rates are per 256 images; epochs become steps with the data set's number of images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.supcon import SupCon
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipes.datasets import CIFAR10_IMAGES, IMAGENET_IMAGES, steps
from eyespot.pretrain.recipes.gate import RESNET, Gate


def supcon_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 350 epochs.

    Batch, epochs, optimiser and temperature are the paper's (section 4); rate, warm-up and weight decay, which it does
    not give, are the defaults of the authors' TensorFlow code.
    """
    return Run(
        objective=SupCon.Config(),
        encoder=EncoderConfig(name="resnet50"),
        data=DataConfig(batch_size=6144),
        optim=OptimConfig(name="lars", lr=0.3, weight_decay=1e-4, warmup_steps=steps(12, IMAGENET_IMAGES, 6144)),
        steps=steps(350, IMAGENET_IMAGES, 6144),
        log_every=50,
        save_every=steps(5, IMAGENET_IMAGES, 6144),
        picture_every=steps(20, IMAGENET_IMAGES, 6144),
    )


def supcon_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 1000 epochs, with the settings of the authors' PyTorch code for its ResNet-50: no blur."""
    view = RandomView(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2)
    return Run(
        objective=SupCon.Config(hidden_dim=512, view=view),
        encoder=EncoderConfig(name="resnet18", image_size=32, small_stem=True),
        data=DataConfig(batch_size=1024, normalize="dataset"),
        optim=OptimConfig(
            name="sgd",
            lr=0.125,
            weight_decay=1e-4,
            decay_vectors=True,
            warmup_steps=steps(10, CIFAR10_IMAGES, 1024),
        ),
        steps=steps(1000, CIFAR10_IMAGES, 1024),
        save_every=500,
        picture_every=500,
    )


def supcon_tiny() -> Run:
    """A very small ResNet on the built-in digits and their labels: a minute or two on two cores."""
    return Run(
        objective=SupCon.Config(hidden_dim=128, out_dim=64, view=RandomView(scale=(0.6, 1.0), flip=0.0)),
        encoder=EncoderConfig(name="test_resnet", image_size=24),  # at 16 its last stage would stride over one pixel
        data=DataConfig(batch_size=256, normalize="dataset"),
        optim=OptimConfig(lr=2e-3, warmup_steps=20),
        steps=300,
        precision="fp32",
        save_every=100,
        picture_every=100,
    )


GATE = Gate(supcon_r18_cifar10, RESNET, steps=200, batch_size=256)
