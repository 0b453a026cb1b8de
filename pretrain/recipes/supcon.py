"""SupCon recipes. Base learning rates are per 256 images; epochs become steps with the data set's number of images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.supcon import SupCon
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import RESNET, Gate


def supcon_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 350 epochs.

    Batch, epochs, optimiser and temperature are the paper's (section 4); rate, warm-up and weight decay, which it does
    not give, are the defaults of the authors' TensorFlow code.
    """
    return on_imagenet(
        SupCon.Config(), epochs=350, batch_size=6144, warmup_epochs=12, name="lars", lr=0.3, weight_decay=1e-4
    )


def supcon_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 1000 epochs, with the settings of the authors' PyTorch code for its ResNet-50: no blur."""
    view = RandomView(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2)
    config = SupCon.Config(hidden_dim=512, view=view)
    return on_cifar10(config, epochs=1000, batch_size=1024, name="sgd", lr=0.125, weight_decay=1e-4, decay_vectors=True)


def supcon_tiny() -> Run:
    """A very small ResNet on the built-in digits and their labels: a minute or two on two cores."""
    return on_digits(SupCon.Config(hidden_dim=128, out_dim=64, view=RandomView(scale=(0.6, 1.0), flip=0.0)))


GATE = Gate(supcon_r18_cifar10, RESNET, steps=200, batch_size=256)
