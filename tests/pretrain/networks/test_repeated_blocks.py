"""Blocks are found by what they are, in whatever timm calls them."""

import copy

import pytest
import timm
import torch
from torch import nn

from eyespot.pretrain.checkpoints.shard_file import RankShard
from eyespot.pretrain.networks.repeated_blocks import choose_layout, repeated_blocks


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


CPU, GPU = torch.device("cpu"), torch.device("cuda")


def orders(module: nn.Module) -> set[bool]:
    """Whether weights of four dimensions stand with channels last; those that stand both ways are left out."""
    weights = [weight for weight in module.parameters() if weight.ndim == 4 and weight[0, 0].numel() > 1]
    return {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights if weight.shape[1] > 1}


@pytest.mark.parametrize(
    ("name", "device", "last"),
    [
        ("resnet10t", GPU, True),
        ("convnext_atto", GPU, True),
        ("resnet10t", CPU, False),
        ("vit_tiny_patch16_224", GPU, False),
    ],
)
def test_convolutions_on_a_gpu_have_their_channels_last(name, device, last):
    """A vision transformer's one, which cuts patches, is left alone."""
    module = timm.create_model(name, num_classes=0)
    choose_layout(module, device)
    assert orders(module) == {last}


def test_the_layout_shows_in_no_checkpoint_digest_or_feature(tmp_path):
    module = timm.create_model("resnet10t", num_classes=0).eval()
    moved = copy.deepcopy(module)
    kept = dict(moved.named_parameters())
    choose_layout(moved, GPU)
    assert all(parameter is kept[name] for name, parameter in moved.named_parameters())
    digests = []
    for number, part in enumerate((module, moved)):
        share, folder = RankShard(part.state_dict()), tmp_path / str(number)
        folder.mkdir()
        share.copy(part.state_dict())
        digests.append(share.write(folder))
    assert digests[0] == digests[1]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(moved(images), module(images), rtol=1e-4, atol=1e-5)
        restored = timm.create_model("resnet10t", num_classes=0).eval()
        choose_layout(restored, GPU)
        restored.load_state_dict(module.state_dict())
        assert torch.equal(restored(images), moved(images))
    assert orders(restored) == {True}


def test_a_step_keeps_the_layout():
    """The optimiser's slots and the teacher's copy stand as the weights do, and the gradients come so."""
    module = timm.create_model("resnet10t", num_classes=0)
    choose_layout(module, GPU)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    module(images.contiguous(memory_format=torch.channels_last)).square().mean().backward()
    optimizer.step()
    for parameter in module.parameters():
        strides = {parameter.stride(), parameter.grad.stride(), optimizer.state[parameter]["exp_avg"].stride()}
        assert len(strides) == 1
    assert orders(copy.deepcopy(module)) == {True}
