"""No method takes an operator that a GPU has only without order: by torch's own list, held against what they call."""

import pkgutil

import pytest
import torch
from engine_states import COUNT, make_batch, make_objective, refresh
from step_passes import take_passes
from torch.utils._python_dispatch import TorchDispatchMode

import eyespot.pretrain.objectives
from eyespot.pretrain.distributed.arithmetic import set_arithmetic
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.optim.optimizers import make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

METHODS = [info.name for info in pkgutil.iter_modules(eyespot.pretrain.objectives.__path__)]
ALONE = World(rank=0, size=1, device=torch.device("cpu"))

REFUSED = {
    "AvgPool3d": ["avg_pool3d_backward"],
    "AdaptiveAvgPool2d": ["_adaptive_avg_pool2d_backward"],
    "AdaptiveAvgPool3d": ["_adaptive_avg_pool3d_backward"],
    "AdaptiveMaxPool2d": ["adaptive_max_pool2d_backward"],
    "FractionalMaxPool2d": ["fractional_max_pool2d_backward"],
    "FractionalMaxPool3d": ["fractional_max_pool3d_backward"],
    "MaxUnpool1d": ["max_unpool2d"],
    "MaxUnpool2d": ["max_unpool2d"],
    "MaxUnpool3d": ["max_unpool3d"],
    "linear": ["upsample_linear1d_backward"],
    "bilinear": ["upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward"],
    "bicubic": ["upsample_bicubic2d_backward"],  # the antialiased one's is our own
    "trilinear": ["upsample_trilinear3d_backward"],
    "ReflectionPad1d": ["reflection_pad1d_backward"],
    "ReflectionPad2d": ["reflection_pad2d_backward"],
    "ReflectionPad3d": ["reflection_pad3d_backward"],
    "NLLLoss": ["nll_loss2d_forward"],  # of vectors of classes the kernel has an order
    "CTCLoss": ["_ctc_loss_backward"],
    "EmbeddingBag": ["_embedding_bag_backward", "_embedding_bag_dense_backward"],
    "put_": ["put", "put_"],
    "histc": ["histc"],
    "bincount": ["bincount"],  # with weights
    "median": ["median", "nanmedian", "kthvalue"],
    "grid_sample": ["grid_sampler_2d_backward", "grid_sampler_3d_backward"],
    "scatter_reduce": ["scatter_reduce", "scatter_reduce_"],  # products
    "resize_": [],  # quantised tensors
}
"""What throws an error on a GPU, by the words of ``torch.use_deterministic_algorithms``, and how autograd calls it."""


class Called(TorchDispatchMode):
    """The names of all operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func).split(".")[1])
        return func(*args, **(kwargs or {}))


def test_the_list_is_that_of_this_torch():
    """A version that refuses more makes the list grow."""
    _, _, text = (torch.use_deterministic_algorithms.__doc__ or "").partition("operations will throw a")
    text, _, _ = text.partition("In addition, several operations")
    named = [line.split("`")[1].split(".")[-1] for line in text.splitlines() if line.strip().startswith("* :")]
    modes = [line.split("``")[1] for line in text.splitlines() if line.strip().startswith("- ``")]
    assert {*named, *modes} - {"interpolate"} == REFUSED.keys()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_calls_nothing_that_is_refused(method):
    """A whole step, with torch's own refusals on a CPU; what nobody wrote holds NaN, and the loss is finite.

    What our own operators do inside is not seen: matrix products, and index_add_, which has an order when told to.
    """
    run = make_run(f"{method}_tiny")
    settings = Settings(micro_batch_size=COUNT, deterministic=True)
    engine = make_engine("ddp", make_objective(method), ALONE, lambda m: make_optimizer(m, run.optim), settings)
    try:
        refresh(engine.objective)
        torch.utils.deterministic.fill_uninitialized_memory = True
        with Called() as called:
            (scalars,) = take_passes(engine, [(make_batch(engine.objective), 0)])
            assert engine.step(1e-3)[1]
            engine.objective.after_step(0.5)
    finally:
        set_arithmetic(ALONE.device)
    assert all(value.isfinite().all() for value in scalars.values())
    assert len(called.names) > 20
    assert not called.names & {name for names in REFUSED.values() for name in names}
