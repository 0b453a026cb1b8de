"""MoCo v1 and v2 recipes. Base learning rates are per 256 images; epochs become steps with the data set's size."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.moco import MoCo
from eyespot.pretrain.recipes.datasets import IMAGENET_IMAGES, on_cifar10, on_digits, on_imagenet, steps
from eyespot.pretrain.recipes.gate import RESNET, Gate


def moco_v1_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 200 epochs: section 3.3 of the first paper; the rate falls after 120 and 160 epochs."""
    view = RandomView(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.4), jitter_probability=1.0, grayscale=0.2)
    return _imagenet(MoCo.Config(head="linear", temperature=0.07, view=view), decay_at=(120 / 200, 160 / 200))


def moco_v2_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 200 epochs: the second paper's MLP head, stronger views and cosine (table 1, row d)."""
    return _imagenet(MoCo.Config())


def moco_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs: the numbers of the authors' CIFAR-10 demo, with v2's MLP head."""
    view = RandomView(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_probability=0.8, grayscale=0.2)
    config = MoCo.Config(queue_size=4096, momentum=0.99, temperature=0.1, view=view)
    return on_cifar10(config, warmup_epochs=0, name="sgd", lr=0.03, momentum=0.9, weight_decay=5e-4, decay_vectors=True)


def moco_tiny() -> Run:
    """A very small ResNet on the built-in digits, v2's head: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    return on_digits(MoCo.Config(out_dim=64, queue_size=1024, momentum=0.99, view=view))


def _imagenet(objective: MoCo.Config, decay_at: tuple[float, ...] = ()) -> Run:
    """SGD, rate 0.03 at batch 256, decay 1e-4 of all parameters, no warm-up (section 3.3 of the first paper)."""
    run = on_imagenet(
        objective,
        epochs=200,
        batch_size=256,
        warmup_epochs=0,
        name="sgd",
        lr=0.03,
        momentum=0.9,
        weight_decay=1e-4,
        decay_vectors=True,
        decay_at=decay_at,
    )
    run.log_every = 100
    run.save_every, run.picture_every = steps(1, IMAGENET_IMAGES, 256), steps(5, IMAGENET_IMAGES, 256)
    return run


GATE = Gate(moco_r18_cifar10, RESNET, steps=400, batch_size=256)
