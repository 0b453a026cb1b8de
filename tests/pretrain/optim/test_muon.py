"""Muon against its algorithm by singular values in float64, against torch's, and on shards against one process."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.classify import Classify
from eyespot.pretrain.optim.muon import (
    COEFFICIENTS,
    HIDDEN,
    NS_STEPS,
    Muon,
    hidden_matrices,
    orthogonal_share,
    orthogonalized,
)
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer

MOMENTUM, DECAY = 0.95, 0.1


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_singular_values(given: torch.Tensor) -> torch.Tensor:
    """The odd polynomial, five times, of each singular value by itself."""
    left, values, right = torch.linalg.svd(given, full_matrices=False)
    values, (a, b, c) = values / values.square().sum().sqrt(), COEFFICIENTS
    for _ in range(NS_STEPS):
        values = a * values + b * values**3 + c * values**5
    return left @ torch.diag(values) @ right


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (4, 9), (9, 4), (1, 5)])
def test_it_is_the_polynomial_of_each_singular_value(rows, columns):
    given = matrix(rows, columns)
    found = orthogonalized(given)
    assert torch.allclose(found, by_singular_values(given), rtol=1e-9, atol=1e-11)
    single = orthogonalized(given.float()).double()
    assert torch.allclose(single, found, rtol=1e-4, atol=1e-5)


def test_what_comes_is_nearly_orthogonal_whatever_the_scale():
    for scale in (1e-4, 1.0, 1e4):
        values = torch.linalg.svdvals(orthogonalized(scale * matrix(32, 64)))
        assert values.min() > 0.6 and values.max() < 1.3
    assert (orthogonalized(torch.zeros(3, 2)) == 0).all()


def test_it_follows_the_algorithm_and_torchs():
    torch.manual_seed(0)
    weight, kernel = nn.Parameter(matrix(5, 8)), nn.Parameter(matrix(6, 12, 1).view(6, 3, 2, 2))
    optimizer = Muon(
        [{"params": [weight, kernel], HIDDEN: True, "weight_decay": DECAY}],
        momentum=MOMENTUM,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    slow = [(p.detach().clone(), torch.zeros_like(p)) for p in (weight, kernel)]
    torchs = nn.Parameter(weight.detach().clone().float())
    peer = torch.optim.Muon([torchs], momentum=MOMENTUM, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    for step, rate in enumerate((0.1, 0.03, 0.0, 0.2)):
        optimizer.param_groups[0]["lr"] = peer.param_groups[0]["lr"] = rate
        for number, p in enumerate((weight, kernel)):
            p.grad = matrix(*p.flatten(1).shape, seed=10 * step + number).view(p.shape)
            w, v = slow[number]
            v = MOMENTUM * v + (1 - MOMENTUM) * p.grad
            wanted = by_singular_values((MOMENTUM * v + (1 - MOMENTUM) * p.grad).flatten(1)).view(p.shape)
            size = 0.2 * max(w.shape[0], w[0].numel()) ** 0.5
            slow[number] = (1 - rate * DECAY) * w - rate * size * wanted, v
        torchs.grad = weight.grad.float()
        optimizer.step()
        peer.step()
    for p, (w, _) in zip((weight, kernel), slow, strict=True):
        assert torch.allclose(p, w, rtol=1e-8, atol=1e-10)
    assert (torchs.detach() - weight.detach()).abs().max() < 0.02  # it rounds to bf16
    assert (torchs.detach() - weight.detach()).norm() < 0.02 * weight.norm()


def test_matrices_of_blocks_are_muons_and_all_else_is_adamws():
    torch.manual_seed(0)
    module = Classify.Config(num_classes=3).build(
        make_encoder(EncoderConfig(name="test_vit", image_size=16, patch_size=4)), 16
    )
    names = {id(p): name for name, p in module.named_parameters()}
    hidden = {names[each] for each in hidden_matrices(module)}
    assert len(hidden) == 4 * 6 and all(name.startswith("encoder.blocks.") for name in hidden)
    changes = {"weight_decay": 0.1, "stages": (0.1,), "layer_decay": 0.5, "final_weight_decay": 0.2}
    optimizer = make_optimizer(module, OptimConfig(name="muon", **changes))
    found = {names[id(p)] for group in optimizer.param_groups if group[HIDDEN] for p in group["params"]}
    assert found == hidden
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    slots = {names[id(p)]: set(state) for p, state in optimizer.state.items()}
    assert all((state == {"momentum_buffer"}) == (name in hidden) for name, state in slots.items())
    with pytest.raises(UserError, match=r"optim.name 'muon': no matrix in a repeated block learns here; take adamw"):
        make_optimizer(nn.Linear(3, 2), OptimConfig(name="muon"))


def test_kernels_of_residual_blocks_are_matrices_and_those_of_one_channel_are_not():
    encoder = make_encoder(EncoderConfig(name="test_convnext", image_size=32))
    found, names = hidden_matrices(encoder), {id(p): (name, p) for name, p in encoder.named_parameters()}
    shapes = {names[each][1].shape for each in found if each in names}
    assert found and all(shape[1] > 1 for shape in shapes)
    assert hidden_matrices(make_encoder(EncoderConfig(name="resnet18", image_size=32)))


def shares(world: World) -> list[tuple[torch.Tensor, ...]]:
    """Of whole matrices and of the ranks' shares of them, uneven ones and a kernel among them."""
    mesh = init_device_mesh("cpu", (world.size,))
    found = []
    for shape in ((6, 5), (5, 8), (3, 4), (1, 4), (5, 2, 3, 3)):
        whole = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        cut = distribute_tensor(whole, mesh)
        mine = orthogonal_share(cut.to_local(), cut)
        wanted = distribute_tensor(orthogonal_share(whole, whole), mesh).to_local()
        found.append((mine, wanted))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_shards_are_those_of_the_whole_matrix_to_the_bit(on_ranks, ranks):
    for pairs in on_ranks(shares, ranks):
        for mine, wanted in pairs:
            assert mine.shape == wanted.shape and torch.equal(mine, wanted)
