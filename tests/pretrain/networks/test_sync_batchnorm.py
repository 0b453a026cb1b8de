"""Batch norm over two and three real ranks against torch's own on one process with the whole batch."""

import copy

import pytest
import torch
import torch.distributed as dist
from batch_norm_kernels import stand_in
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.networks.sync_batchnorm import (
    _NormalizeByKernels,
    _Synchronized,
    frozen_statistics,
    synchronize_batch_norm,
)

SIZES = [pytest.param(2, marks=pytest.mark.thorough), 3]
ROUTES = ["operations", "kernels"]
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
    """All that is asked of one spawn: by single operations, and by the route that a GPU takes."""
    library, by_operations = stand_in("CPU"), _Synchronized._by_operations
    found = {}
    for route in ROUTES:
        _Synchronized._by_operations = by_operations if route == "operations" else _Synchronized._by_kernels
        found[route] = {case: work(world, case) for case in CASES} | {"low precision": low_precision(world)}
    _Synchronized._by_operations = by_operations
    del library
    return found


@pytest.fixture(scope="module", params=SIZES)
def ranks(request, on_ranks):
    return on_ranks(everything, request.param)


@pytest.fixture(params=ROUTES)
def answers(request, ranks):
    return [rank[request.param] for rank in ranks]


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


class Kernels(TorchDispatchMode):
    """Operators that start a kernel, and the bytes that each reads and writes."""

    VIEWS = (
        "view",
        "split",
        "select",
        "unbind",
        "slice",
        "empty",
        "new_empty",
        "detach",
        "alias",
        "unsqueeze",
        "device",
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        name = str(func).split(".")[1]
        if not name.startswith(self.VIEWS):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, answer)) if isinstance(leaf, Tensor)]
            self.found.append((name, sum(tensor.numel() * tensor.element_size() for tensor in tensors)))
        return answer


class Context:
    """What autograd hands to both passes; its own asks for a GPU as soon as a tensor says that it is on one."""

    def save_for_backward(self, *tensors) -> None:
        self.saved_tensors = tensors


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("tracked", [True, False])
def test_a_gpu_moves_16_bytes_an_element(layout, tracked):
    """On fake tensors of a GPU and a group of 8 ranks that moves nothing; 56 to 66 it was by single operations."""
    library = stand_in("Meta")
    dist.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    try:
        with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
            x = torch.empty(16, 64, 56, 56, dtype=torch.bfloat16).contiguous(memory_format=layout)
            weight, running = torch.empty(64), (torch.empty(64), torch.empty(64)) if tracked else (None, None)
            context, slope = Context(), torch.empty_like(x)
            with Kernels() as kernels:
                output = _NormalizeByKernels.forward(context, x, weight, weight, *running, 0.1, 1e-5)
                forward = [name for name, _ in kernels.found]
                in_x, in_weight, in_bias, *rest = _NormalizeByKernels.backward(context, slope)
    finally:
        dist.destroy_process_group()
        del library
    for found in (output, in_x):
        assert (found.shape, found.dtype, found.device, found.stride()) == (x.shape, x.dtype, x.device, x.stride())
    assert in_weight.shape == in_bias.shape == (64,) and in_weight.dtype == torch.float32
    assert rest == [None] * 4
    assert forward.count("_allgather_base_") == 1
    assert len(kernels.found) <= 11, kernels.found
    large = [(name, num_bytes / x.numel()) for name, num_bytes in kernels.found if num_bytes > x.numel() / 10]
    assert [name for name, _ in large] == [
        "batch_norm_stats",
        "batch_norm_elemt",
        "batch_norm_backward_reduce",
        "batch_norm_backward_elemt",
    ]
    assert sum(num_bytes for _, num_bytes in kernels.found) / x.numel() <= 16.1


def test_tensors_of_a_gpu_go_to_the_kernels():
    library = stand_in("Meta")
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        with FakeTensorMode(), torch.device("cuda"), torch.no_grad(), Kernels() as kernels:
            module = nn.BatchNorm2d(4)
            synchronize_batch_norm(module)
            assert module(torch.empty(2, 4, 3, 3)).is_cuda
    finally:
        dist.destroy_process_group()
        del library
    assert "batch_norm_elemt" in [name for name, _ in kernels.found]
