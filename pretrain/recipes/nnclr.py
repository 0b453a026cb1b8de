"""NNCLR recipes. Base learning rates are per 256 images; epochs become steps with the data set's number of images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.nnclr import NNCLR
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import RESNET, Gate


def nnclr_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 1000 epochs with LARS: the paper's setting (section 4.1, from memory)."""
    return on_imagenet(NNCLR.Config(), epochs=1000, batch_size=4096, name="lars", lr=0.3, weight_decay=1e-6)


def nnclr_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs, no blur, a queue of 4,096. The paper has no CIFAR-10."""
    view = RandomView(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2)
    config = NNCLR.Config(hidden_dim=1024, predictor_dim=1024, queue_size=4096, view=view)
    return on_cifar10(config, lr=1e-3, weight_decay=1e-4, betas=(0.9, 0.999))


def nnclr_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    return on_digits(
        NNCLR.Config(temperature=0.2, hidden_dim=128, predictor_dim=128, out_dim=64, queue_size=768, view=view)
    )


GATE = Gate(nnclr_r18_cifar10, RESNET, steps=250, batch_size=256, changes="--optim.lr 2e-3")
