"""Distillation recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.networks.fixed.fixed_teacher import RANDOM, TeacherConfig
from eyespot.pretrain.objectives.distill import Distill
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet


def distill_vits16_in1k() -> Run:
    """ViT-S/16 from DINOv2's ViT-L/14 with registers, ImageNet-1k, 300 epochs of 2,048. Settings are DeiT's; not run.

    The teacher's weights come from timm's hub (apache-2.0), or by --objective.teacher.weights FILE.
    """
    model = "vit_large_patch14_reg4_dinov2"
    teacher = TeacherConfig(model=f"{model}.lvd142m", name=model, patch_size=14)
    return on_imagenet(
        Distill.Config(teacher=teacher),
        encoder="vit_small_patch16_224",
        epochs=300,
        batch_size=2048,
        lr=1.25e-4,
        min_lr=1e-6,
        weight_decay=0.05,
        betas=(0.9, 0.999),
    )


def distill_r18_cifar10() -> Run:
    """ResNet-18 with the small stem on CIFAR-10, 200 epochs, by the teacher that --objective.teacher.model names."""
    return on_cifar10(
        Distill.Config(teacher=TeacherConfig(name="resnet50", small_stem=True), view=RandomView(scale=(0.3, 1.0))),
        lr=1e-3,
        weight_decay=0.05,
    )


def distill_tiny() -> Run:
    """A very small ViT (64 channels, 6 blocks) on the built-in digits: minutes.

    Name a teacher with --objective.teacher.model; as it stands it is a random one.
    """
    teacher = TeacherConfig(model=RANDOM, name="test_vit2", patch_size=8)
    return on_digits(
        Distill.Config(teacher=teacher, view=RandomView(scale=(0.6, 1.0), flip=0.0)),
        encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4),
    )
