"""Batch norm over two and three real ranks against torch's own on one process with the whole batch."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.networks.sync_batchnorm import frozen_statistics, synchronize_batch_norm

SIZES = [2, 3]
STEPS = 2


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        BatchNormAct2d(5, act_layer=nn.SiLU, inplace=False),
        nn.Flatten(),
        nn.Linear(20, 6),
        nn.BatchNorm1d(6, affine=False),
    )


CASES = {
    "vectors": (lambda: nn.BatchNorm1d(5), (5,)),
    "sequences": (lambda: nn.BatchNorm1d(5), (5, 4)),
    "maps": (lambda: nn.BatchNorm2d(5, momentum=0.3, eps=1e-2), (5, 3, 2)),
    "with activation": (lambda: BatchNormAct2d(5, act_layer=nn.Tanh), (5, 3, 2)),
    "cumulative": (lambda: nn.BatchNorm2d(5, momentum=None), (5, 3, 2)),
    "momentum 0": (lambda: nn.BatchNorm2d(5, momentum=0.0), (5, 3, 2)),
    "not affine": (lambda: nn.BatchNorm1d(5, affine=False), (5,)),
    "no bias": (lambda: nn.BatchNorm1d(5, bias=False), (5,)),
    "not tracking": (lambda: nn.BatchNorm1d(5, track_running_stats=False), (5,)),
    "a network": (network, (3, 6, 6)),
}


def make_module(case: str) -> nn.Module:
    torch.manual_seed(0)
    module = CASES[case][0]().double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=0.5)
    return module


def inputs(case: str, rank: int, step: int) -> Tensor:
    """Each rank has other values, another spread and another number of rows."""
    generator = torch.Generator().manual_seed(10 * rank + step)
    rows = torch.randn(3 + rank, *CASES[case][1], generator=generator, dtype=torch.float64)
    return rows * (1 + rank) + 2 * rank


def local_loss(outputs: Tensor) -> Tensor:
    weights = torch.linspace(-1, 2, outputs[0].numel(), dtype=outputs.dtype).reshape(outputs[0].shape)
    return (weights * outputs.sigmoid() * outputs).mean()


def work(world, case: str) -> dict:
    module = make_module(case)
    before = dict(module.named_parameters()), list(module.state_dict())
    synchronize_batch_norm(module)
    assert all(after is before[0][name] for name, after in module.named_parameters())
    assert list(module.state_dict()) == before[1]
    outputs, slopes = [], []
    for step in range(STEPS):
        rows = inputs(case, world.rank, step).requires_grad_()
        outputs.append(module(rows))
        local_loss(outputs[-1]).backward()
        slopes.append(rows.grad)
    with torch.no_grad(), frozen_statistics(module):
        frozen = module(inputs(case, world.rank, 0))
    evaluated = copy.deepcopy(module).eval()(inputs(case, world.rank, 0))
    return {
        "outputs": [output.detach() for output in outputs],
        "slopes": slopes,
        "gradients": {name: p.grad for name, p in module.named_parameters()},
        "buffers": dict(module.named_buffers()),
        "frozen": frozen,
        "evaluated": evaluated.detach(),
    }


def low_precision(world) -> dict:
    torch.manual_seed(world.rank)
    module = nn.BatchNorm2d(4)
    synchronize_batch_norm(module)
    rows = (torch.randn(8, 4, 6, 6) + world.rank + 3).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = module(rows)
    local_loss(output.float()).backward()
    far = nn.BatchNorm1d(3)
    synchronize_batch_norm(far)
    distant = torch.randn(64, 3) + 1e4
    far(distant)
    return {
        "rows": rows.detach(),
        "output": output.detach(),
        "slope": rows.grad,
        "buffers": dict(module.named_buffers()),
        "distant": distant,
        "variance": far.running_var,
    }


def everything(world) -> dict:
    """All that is asked of one spawn."""
    return {case: work(world, case) for case in CASES} | {"low precision": low_precision(world)}


@pytest.fixture(scope="module", params=SIZES)
def answers(request, on_ranks):
    return on_ranks(everything, request.param)


@pytest.mark.parametrize("case", CASES)
def test_ranks_compute_what_one_process_computes(answers, case):
    size, module = len(answers), make_module(case)
    for step in range(STEPS):
        parts = [inputs(case, rank, step).requires_grad_() for rank in range(size)]
        outputs = module(torch.cat(parts)).split([len(part) for part in parts])
        torch.stack([local_loss(output) for output in outputs]).mean().backward()
        for answer, output, part in zip(answers, outputs, parts, strict=True):
            torch.testing.assert_close(answer[case]["outputs"][step], output.detach(), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(answer[case]["slopes"][step] / size, part.grad, rtol=1e-10, atol=1e-13)
    for name, parameter in module.named_parameters():
        mean = torch.stack([answer[case]["gradients"][name] for answer in answers]).mean(0)
        torch.testing.assert_close(mean, parameter.grad, rtol=1e-10, atol=1e-13)
    for answer in answers:
        torch.testing.assert_close(answer[case]["buffers"], dict(module.named_buffers()), rtol=1e-12, atol=1e-13)
        for name, buffer in answer[case]["buffers"].items():  # the same bits on every rank
            assert torch.equal(buffer, answers[0][case]["buffers"][name])


@pytest.mark.parametrize("case", CASES)
def test_frozen_statistics_are_used_and_not_noted(answers, case):
    """The frozen pass came after the last training step and before the buffers were compared above."""
    module = make_module(case).train()
    whole = torch.cat([inputs(case, rank, 0) for rank in range(len(answers))])
    expected = module(whole).detach().split([3 + rank for rank in range(len(answers))])
    for answer, output in zip(answers, expected, strict=True):
        torch.testing.assert_close(answer[case]["frozen"], output, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_evaluation_is_torchs(answers, case):
    for rank, answer in enumerate(answers):
        module = make_module(case).eval()
        module.load_state_dict(answer[case]["buffers"], strict=False)
        assert torch.equal(module(inputs(case, rank, 0)), answer[case]["evaluated"])


def test_statistics_under_autocast_are_fp32_and_outputs_bf16(answers):
    parts = [answer["low precision"] for answer in answers]
    whole = torch.cat([part["rows"] for part in parts]).double().requires_grad_()
    module = nn.BatchNorm2d(4).double()
    outputs = module(whole).split(8)
    torch.stack([local_loss(output) for output in outputs]).sum().backward()
    for part, output, slope in zip(parts, outputs, whole.grad.split(8), strict=True):
        assert part["output"].dtype == part["slope"].dtype == torch.bfloat16
        torch.testing.assert_close(part["output"].double(), output.detach(), rtol=2**-8, atol=1e-2)
        assert (part["slope"].double() - slope).norm() < 2**-7 * slope.norm()
        for name in ("running_mean", "running_var"):
            assert part["buffers"][name].dtype == torch.float32
            torch.testing.assert_close(part["buffers"][name].double(), getattr(module, name), rtol=1e-6, atol=1e-6)


def test_variance_survives_a_large_mean(answers):
    """Sums of squares would lose it: 1e8 in fp32 is known to 8."""
    whole = torch.cat([answer["low precision"]["distant"] for answer in answers]).double()
    for answer in answers:
        expected = 0.9 + 0.1 * whole.var(0)
        torch.testing.assert_close(answer["low precision"]["variance"].double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("synchronized", [False, True])
def test_frozen_statistics_leave_torchs_batch_norm_alone_too(synchronized):
    module = make_module("a network")
    if synchronized:
        synchronize_batch_norm(module)  # one process: as ever
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    rows = inputs("a network", 0, 0)
    with pytest.raises(KeyError), frozen_statistics(module):
        first = module(rows)
        raise KeyError("a failure leaves no trace")
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
    assert torch.equal(module(rows), first)
    assert not torch.equal(module[1].running_mean, before["1.running_mean"])
    assert module[4].num_batches_tracked == before["4.num_batches_tracked"] + 1


def test_a_kind_that_would_not_synchronise_is_refused():
    with pytest.raises(UserError, match=r"1 BatchNorm3d: cannot be synchronised"):
        synchronize_batch_norm(nn.Sequential(nn.Conv3d(1, 1, 1), nn.BatchNorm3d(1)))
