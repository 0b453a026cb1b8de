"""Blocks are found by what they are, in whatever timm calls them."""

import pytest
import timm
from torch import nn

from eyespot.pretrain.networks.repeated_blocks import repeated_blocks


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("vit_tiny_patch16_224", "Block", 12),
        ("resnet18", "BasicBlock", 8),
        ("resnet50", "Bottleneck", 16),
        ("swin_tiny_patch4_window7_224", "SwinTransformerBlock", 12),
        ("convnext_atto", "ConvNeXtBlock", 12),
    ],
)
def test_all_blocks_of_an_encoder_are_found(name, kind, count):
    blocks = repeated_blocks(timm.create_model(name, num_classes=0))
    assert [type(block).__name__ for block in blocks] == [kind] * count
    assert len(set(blocks)) == count


def test_a_stage_is_no_block():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleList([Block(), Block()])

    stages = nn.Sequential(Stage(), Stage())
    assert repeated_blocks(stages) == [block for stage in stages for block in stage.inner]


def test_a_block_in_two_places_counts_once():
    blocks = repeated_blocks(timm.create_model("vit_tiny_patch16_224", num_classes=0))[:2]
    assert repeated_blocks(nn.ModuleList([nn.Sequential(*blocks), nn.Sequential(*blocks)])) == blocks


def test_layers_one_after_the_other_are_no_blocks():
    assert repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))) == []
    assert repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == []
