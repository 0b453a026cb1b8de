"""Split-brain recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.split_brain import SplitBrain
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import Gate


def split_brain_r50_in1k() -> Run:
    """Two ResNet-50 on ImageNet-1k, 70 epochs. The paper's halves are of an AlexNet, so encoder and rate are ours."""
    return on_imagenet(
        SplitBrain.Config(), encoder="split_resnet50", epochs=70, batch_size=512, lr=5e-4, weight_decay=1e-3
    )


def split_brain_r18_cifar10() -> Run:
    """Two ResNet-18 on CIFAR-10, 100 epochs. The paper has no CIFAR-10."""
    encoder = EncoderConfig(name="split_resnet18", image_size=32, small_stem=True)
    config = SplitBrain.Config(view=RandomView(scale=(0.5, 1.0)))
    run = on_cifar10(config, encoder=encoder, epochs=100, batch_size=256, warmup_epochs=5, lr=1e-3, weight_decay=1e-3)
    run.data.normalize = "imagenet"
    return run


def split_brain_tiny() -> Run:
    """Two very small ViT on the built-in digits, which are gray: one half learns nothing but that."""
    encoder = EncoderConfig(name="split_test_vit", image_size=16, patch_size=4)
    config = SplitBrain.Config(hidden_dim=32, view=RandomView(scale=(0.6, 1.0), flip=0.0))
    run = on_digits(config, encoder=encoder)
    run.data.normalize = "imagenet"
    return run


GATE = Gate(
    split_brain_r18_cifar10,
    "--encoder.name split_test_resnet --encoder.no-small-stem",
    steps=800,
    batch_size=128,
    changes="--optim.lr 3e-3",
)
