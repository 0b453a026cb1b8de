"""DeepCluster recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.deepcluster import DeepCluster
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import RESNET, Gate


def deepcluster_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 10,000 clusters, a constant rate of 0.05 for 200 epochs: as the authors' code."""
    return on_imagenet(
        DeepCluster.Config(),
        epochs=200,
        batch_size=256,
        warmup_epochs=1,
        name="sgd",
        lr=0.05,
        min_lr=0.05,
        weight_decay=1e-5,
    )


def deepcluster_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs, 128 clusters. The paper has no CIFAR-10."""
    view = RandomView(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.5)
    config = DeepCluster.Config(num_clusters=128, view=view)
    return on_cifar10(config, batch_size=256, warmup_epochs=1, name="sgd", lr=0.05, weight_decay=1e-5)


def deepcluster_tiny() -> Run:
    """A very small ResNet on the built-in digits, 30 clusters, anew after 17 steps: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    return on_digits(DeepCluster.Config(num_clusters=30, refresh_epochs=3.0, view=view))


GATE = Gate(
    deepcluster_r18_cifar10, RESNET, steps=600, batch_size=256, changes="--optim.lr 2e-3 --objective.refresh-epochs 0.5"
)
