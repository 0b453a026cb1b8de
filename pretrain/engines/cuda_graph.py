"""The two passes of a small step as one CUDA graph: the device gets one launch in place of thousands.

A graph does again what was done while it was captured: the same kernels, on the same addresses, with the numbers that
the host handed them then. So what changes from step to step has to lie in memory that stays where it is: views, labels,
ids and drawn numbers are copied into a ``StaticBatch`` before each replay. Weights and buffers change in place anyway.
torch's own random numbers need nothing: a graph reads its generator's seed and offset at each replay, so seeding it
before a replay does what seeding it before the passes does.

What an objective reads on the host would stay as it was at the capture. No method declares that it reads nothing there:
steps 1, 2, 4, 8 and so on are computed both ways, and a difference stops the run, or late in it the graph.

Optimiser, teachers and queues stay outside: a few fused kernels, with numbers of the host's.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.sync_batchnorm import RunningStatistics
from eyespot.pretrain.objective import Objective

T = TypeVar("T")

WARM_UPS = 3
"""Passes before the capture, in which libraries choose their kernels and take their workspaces; torch's advice."""
TOLERANCE = 0.01
"""Norm of the difference between a graph's numbers and those of the passes without it, as a share of their norm. Sums
in another order are far below it, a mask or a weight of another step far above."""
TRIAL_STEPS = 8
"""First steps of a run in which more than that stops it. Later it may be rounding after all: what cancels out as
training goes on leaves small sums of large numbers."""
PLAIN = 0.1
"""A difference that no rounding makes: it stops the run at any step."""
SMALLEST = 1e-6
"""Norm below which numbers are rounding alone."""


@dataclass(kw_only=True, slots=True)
class StaticBatch(Batch):
    """A batch whose tensors on the device stay where they are, and get another batch's values."""

    drawn: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """What the objective has drawn so far, by stream and count."""
    own_ids: Tensor | None = None
    """(B,) the ids on the device, once they were asked for."""
    sealed: bool = False
    """Nothing may be asked for any more that was not asked for before."""

    @classmethod
    def like(cls, batch: Batch) -> "StaticBatch":
        """With room for this batch and others of its shape."""
        views, labels = [torch.empty_like(view) for view in batch.views], torch.empty_like(batch.labels)
        return cls(views=views, ids=batch.ids, epochs=batch.epochs, labels=labels, seed=batch.seed)

    def fits(self, batch: Batch) -> bool:
        """Whether the other batch has this one's shapes."""
        own, other = ([(view.shape, view.dtype) for view in one.views] for one in (self, batch))
        return own == other and len(self) == len(batch) and self.seed == batch.seed

    def load(self, batch: Batch) -> None:
        """Takes over the other batch's values; the host waits for no copy, and overwrites none that is under way."""
        self.ids, self.epochs = batch.ids, batch.epochs
        for view, new in zip(self.views, batch.views, strict=True):
            view.copy_(new)
        self.labels.copy_(batch.labels)
        if self.own_ids is not None:
            self.own_ids.copy_(batch.ids_on_device())
        for (stream, count), numbers in self.drawn.items():
            numbers.copy_(batch.uniforms(stream, count))  # through fresh pinned memory, see ``send``

    def uniforms(self, stream: str, count: int) -> Float[Tensor, "_ count"]:
        """As a batch's; the same tensor each time."""
        if (stream, count) not in self.drawn:
            self._refuse_if_sealed(f"{count} numbers of {stream!r}")
            self.drawn[stream, count] = Batch.uniforms(self, stream, count)
        return self.drawn[stream, count]

    def ids_on_device(self) -> Int[Tensor, " _"]:
        """As a batch's; the same tensor each time."""
        if self.own_ids is None:
            self._refuse_if_sealed("ids")
            self.own_ids = Batch.ids_on_device(self).clone()  # on a CPU it would be the batch's own
        return self.own_ids

    def _refuse_if_sealed(self, what: str) -> None:
        if self.sealed:
            raise UserError(f"cuda_graph True: {what} are drawn in some passes and not in others; leave it out")


@dataclass(kw_only=True, slots=True, frozen=True)
class Passed:
    """What a forward and a backward pass leave."""

    scalars: dict[str, Tensor]
    """What the objective said, without gradient."""
    gradients: list[Tensor | None]
    """Of each parameter."""
    kept: dict[tuple[nn.Module, str], Any]
    """Tensors and lists that modules set aside for later, by module and attribute."""


class GraphDoubtedError(Exception):
    """A graph's numbers differ a little from those without it, late: what the step has changed is put back."""


def capture(passes: Callable[[], T]) -> Callable[[], T]:
    """Captures what ``passes`` does on the current device.

    Other threads (decoding, saving) go on meanwhile with what a capture forbids its own thread.

    Returns:
        Does it again, and returns what ``passes`` returned, whose tensors then have new values.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        passed = passes()

    def replay() -> T:
        graph.replay()
        return passed

    return replay


class GraphedPasses:
    """Forward and backward pass of a step of one micro-batch on one process, by a graph.

    It is captured at the first call, and anew where a batch has another shape or a tensor of the objective's lies
    elsewhere than before. Warm-ups and comparisons leave no trace: running statistics, which are all that a forward
    pass changes, are put back, and what waits for the step's end is dropped. Gradients lie in the graph's memory.

    Args:
        objective: on its device.
        forward: its forward pass in the run's precision.
        backward: adds the gradient of a loss.
        parameters: those that get gradients.
    """

    def __init__(
        self,
        objective: Objective,
        forward: Callable[[Batch], dict[str, Tensor]],
        backward: Callable[[Tensor], None],
        parameters: list[nn.Parameter],
    ) -> None:
        self._objective, self._forward, self._backward, self._parameters = objective, forward, backward, parameters
        self._statistics = RunningStatistics(objective)
        self._batch: StaticBatch | None = None
        self._replay: Callable[[], Passed] | None = None
        self._addresses: list[int] = []
        self._count, self._num_steps = 0, 0
        self.on_trial = True
        """Whether the run begins with this process; one that goes on had its first steps before."""

    def __call__(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """Both passes: gradients are where the optimiser looks for them.

        Args:
            batch: of this step.
            seed: of torch's generators.

        Returns:
            The objective's scalars, without gradient; the next call overwrites them.

        Raises:
            UserError: the objective cannot be captured, or a graph computes something else than it does.
            GraphDoubtedError: this step, and all that follow, should be computed without a graph.
        """
        addresses = [tensor.data_ptr() for tensor in (*self._objective.parameters(), *self._objective.buffers())]
        if self._batch is None or not self._batch.fits(batch) or addresses != self._addresses:
            self._replay = None  # whose memory the next one may take
            self._batch, self._addresses, self._count = StaticBatch.like(batch), addresses, 0
        self._batch.load(batch)
        self._count, self._num_steps = self._count + 1, self._num_steps + 1
        expected = self._tried(seed) if _is_compared(self._count) else None
        self._replay = self._replay or self._captured(self._batch, seed)
        torch.manual_seed(seed)
        found = self._replay()
        if expected is not None:
            self._compare(found, expected)
        for (part, name), value in found.kept.items():  # no line of the objective has run
            setattr(part, name, [*value] if isinstance(value, list) else value)
        for parameter, gradient in zip(self._parameters, found.gradients, strict=True):
            parameter.grad = gradient
        return found.scalars

    def _passes(self) -> Passed:
        assert self._batch is not None
        for parameter in self._parameters:
            parameter.grad = None  # so that the gradient is written, not added to
        before = _attributes(self._objective)
        scalars = self._forward(self._batch)
        self._backward(scalars["loss"])
        kept = {key: now for key, now in _attributes(self._objective).items() if _differs(now, before.get(key))}
        for part, name in kept:
            if not isinstance(kept[part, name], list | Tensor):
                what = f"{type(part).__name__}.{name}"
                raise UserError(f"cuda_graph True: {what} changes with each pass, unseen by a graph; leave it out")
        # Without gradient: nothing of these passes may be alive when the next are captured on another stream.
        scalars = {name: scalar.detach() for name, scalar in scalars.items()}
        return Passed(scalars=scalars, gradients=[p.grad for p in self._parameters], kept=kept)

    def _tried(self, seed: int) -> Passed:
        """Both passes without a graph, as if they had not been."""
        torch.manual_seed(seed)
        self._statistics.keep()
        passed = self._passes()
        self._statistics.put_back()
        self._objective.after_skip()
        return passed

    def _captured(self, batch: StaticBatch, seed: int) -> Callable[[], Passed]:
        with _beside(batch.labels.device):
            for _ in range(WARM_UPS):
                self._tried(seed)
        batch.sealed = True
        torch.manual_seed(seed)  # before: a capture does not let it be set
        try:
            replay = capture(self._passes)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"cuda_graph True: this step cannot be captured: {reason}; leave it out") from error
        self._statistics.put_back()  # capturing runs nothing on a GPU; what stands in for it may
        self._objective.after_skip()
        return replay

    def _compare(self, found: Passed, expected: Passed) -> None:
        pairs = {
            "loss": ([found.scalars["loss"]], [expected.scalars["loss"]]),
            "scalars": (list(found.scalars.values()), list(expected.scalars.values())),
            "gradients": (found.gradients, expected.gradients),
            "what waits for the step's end": (tree_leaves(found.kept), tree_leaves(expected.kept)),
        }
        apart = {what: _apart(ours, theirs) for what, (ours, theirs) in pairs.items()}
        limit = TOLERANCE if self.on_trial and self._num_steps <= TRIAL_STEPS else PLAIN
        for what, far in apart.items():
            if not far <= limit:  # nor NaN
                raise UserError(
                    f"cuda_graph True: {what} of a graph: {far:.2g} from without it, more than {limit}:"
                    " this objective reads on the host what changes from step to step; leave it out"
                )
        what, far = max(apart.items(), key=lambda item: item[1])
        if far > TOLERANCE:
            self._statistics.put_back()  # to where the trial without the graph began
            for parameter in self._parameters:
                parameter.grad = None
            raise GraphDoubtedError(f"{what} of a graph: {far:.2g} from without it after {self._num_steps} steps")


def _is_compared(count: int) -> bool:
    """Whether the graph's step of this 1-based number is computed both ways: 1, 2, 4, 8, 16, ..."""
    return not count & (count - 1)


def _attributes(objective: nn.Module) -> dict[tuple[nn.Module, str], Any]:
    """What modules keep beside parameters and buffers."""
    return {
        (part, name): [*value] if isinstance(value, list) else value
        for part in objective.modules()
        for name, value in vars(part).items()
        if isinstance(value, list | Tensor | int | float)
    }


def _differs(now: Any, before: Any) -> bool:
    if isinstance(now, list) and isinstance(before, list):
        return len(now) != len(before) or any(one is not other for one, other in zip(now, before, strict=True))
    return now is not before if isinstance(now, list | Tensor) else now != before


def _apart(found: list[Any], expected: list[Any]) -> float:
    """Norm of the difference as a share of the norm. Infinite where shapes or whole numbers differ.

    0 where what is expected is not finite: that step will be skipped, and a later one compared.
    """
    if [getattr(one, "shape", None) for one in found] != [getattr(one, "shape", None) for one in expected]:
        return math.inf
    pairs = [(one, other) for one, other in zip(found, expected, strict=True) if isinstance(one, Tensor)]
    fractions = [(one.double(), other.double()) for one, other in pairs if other.is_floating_point()]
    if not all(torch.equal(one, other) for one, other in pairs if not other.is_floating_point()):
        return math.inf
    if not fractions:
        return 0.0
    apart = torch.stack([(one - other).norm() for one, other in fractions]).norm()
    size = torch.stack([other.norm() for _, other in fractions]).norm()
    return float(apart / size.clamp_min(SMALLEST)) if bool(size.isfinite()) else 0.0


@contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """On another stream, after all that was asked for and before all that will be: so torch wants warm-ups to run."""
    if device.type != "cuda":
        yield
        return
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        yield
    torch.cuda.current_stream(device).wait_stream(side)
