"""SIGReg against slow, obvious references in float64, against the closed form of its integral, and on real ranks."""

import math

import pytest
import torch

from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.losses.sigreg import random_directions, sigreg_loss

COUNT, VIEWS, DIM, DIRECTIONS = 6, 2, 3, 4
WORD = 2**64 - 1


def make_rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = (
        torch.randn(COUNT, VIEWS, DIM, generator=generator, dtype=torch.float64) * torch.tensor([0.3, 1.0, 2.0]) + 0.2
    )
    directions = torch.randn(DIM, DIRECTIONS, generator=generator, dtype=torch.float64)
    return rows, directions / directions.norm(dim=0)


def slow_sigreg(rows, directions, knots=17, reach=5.0):
    """The paper's algorithm 1, knot by knot from -5 to 5, for each view and direction."""
    statistics = []
    for view in range(rows.shape[1]):
        for direction in directions.T:
            points = [-reach + 2 * reach * number / (knots - 1) for number in range(knots)]
            values = []
            for t in points:
                mean = sum(torch.exp(1j * t * (row @ direction)) for row in rows[:, view]) / len(rows)
                values.append((mean - math.exp(-(t**2) / 2)).abs() ** 2 * math.exp(-(t**2) / 2))
            areas = [(b - a) * (x + y) / 2 for a, b, x, y in zip(points, points[1:], values, values[1:], strict=False)]
            statistics.append(len(rows) * sum(areas))
    return sum(statistics) / len(statistics)


def closed_form(rows, directions):
    """The integral itself, over all t, of Epps and Pulley's test: three Gaussian integrals."""
    statistics = []
    for view in range(rows.shape[1]):
        for direction in directions.T:
            x = rows[:, view] @ direction
            pairs = torch.exp(-((x[:, None] - x) ** 2) / 2).mean() * math.sqrt(2 * math.pi)
            single = torch.exp(-(x**2) / 4).mean() * math.sqrt(math.pi)
            statistics.append(len(x) * (pairs - 2 * single + math.sqrt(2 * math.pi / 3)))
    return sum(statistics) / len(statistics)


def test_loss_and_gradient_equal_the_slow_reference():
    rows, directions = make_rows()
    rows.requires_grad_()
    fast, slow = sigreg_loss(rows, directions), slow_sigreg(rows, directions)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    (ours,), (theirs,) = torch.autograd.grad(fast, rows), torch.autograd.grad(slow, rows)
    assert (ours - theirs).abs().max() <= 1e-12


def test_finer_knots_come_to_the_closed_form():
    rows, directions = make_rows()
    exact = closed_form(rows, directions).item()
    assert sigreg_loss(rows, directions, knots=401, reach=12.0).item() == pytest.approx(exact, rel=1e-12)
    assert sigreg_loss(rows, directions).item() == pytest.approx(exact, rel=1e-3)  # the paper's knots are enough


def test_the_gradient_is_that_of_differences():
    rows, directions = make_rows()
    torch.autograd.gradcheck(lambda x: sigreg_loss(x, directions), (rows.requires_grad_(),))


def test_it_tells_a_normal_distribution_from_others():
    """Of normal rows the statistic stays what it is as they grow in number; of all others it grows with them."""
    directions = random_directions(torch.tensor(1), torch.tensor(0), 8, 64)
    found = {}
    for count in (500, 4000):
        normal = torch.randn(count, 1, 8)
        others = {"normal": normal, "wide": 2 * normal, "moved": normal + 0.5, "point": torch.zeros_like(normal)}
        one = normal.clone()
        one[:, :, 1:] = one[:, :, :1]  # eight times the same number
        found[count] = {name: sigreg_loss(rows, directions).item() for name, rows in (*others.items(), ("one", one))}
    assert found[4000]["normal"] < 1.5 and found[500]["normal"] < 1.5
    for name in ("wide", "moved", "point", "one"):
        assert found[4000][name] > 4 * found[500][name] > 8 * found[500]["normal"], name


def test_bf16_rows_are_widened():
    rows, directions = make_rows()
    with torch.autocast("cpu", torch.bfloat16):
        assert sigreg_loss(rows.bfloat16(), directions.float()).dtype == torch.float32


def slow_mixed(number: int) -> int:
    number = number * 0x9E3779B97F4A7C15 & WORD
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & WORD
    number = (number ^ number >> 27) * 0x94D049BB133111EB & WORD
    return number ^ number >> 31


def slow_directions(seed: int, step: int, dim: int, count: int) -> torch.Tensor:
    def share(place: int) -> int:
        return slow_mixed(slow_mixed((slow_mixed(seed) + step) & WORD) + place & WORD) >> 40

    found = torch.empty(dim, count, dtype=torch.float64)
    for place in range(dim * count):
        length = math.sqrt(-2 * math.log((share(place) + 1) / 2**24))
        found[place // count, place % count] = length * math.cos(2 * math.pi * share(dim * count + place) / 2**24)
    return found / found.norm(dim=0)


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (2**62 - 3, 7), (12345, 10**9)])
def test_directions_equal_the_slow_reference(seed, step):
    found = random_directions(torch.tensor(seed), torch.tensor(step), 3, 5)
    assert torch.allclose(found.double(), slow_directions(seed, step, 3, 5), atol=1e-5)


def test_directions_are_even_and_new_at_each_step():
    seed = torch.tensor(3)
    found = random_directions(seed, torch.tensor(0), 8, 4096)
    assert torch.allclose(found.norm(dim=0), torch.ones(4096), atol=1e-5)
    assert (found @ found.T / 4096 - torch.eye(8) / 8).abs().max() < 0.02  # no axis is preferred
    assert found.mean(1).abs().max() < 0.03
    for other in (
        random_directions(seed, torch.tensor(1), 8, 4096),
        random_directions(seed + 1, torch.tensor(0), 8, 4096),
    ):
        assert (found * other).sum(0).mean().abs() < 0.05


def on_rank(world: World) -> tuple[float, torch.Tensor]:
    rows, directions = make_rows()
    own = rows.chunk(world.size)[world.rank].clone().requires_grad_()
    loss = sigreg_loss(own, directions)
    loss.backward()
    return loss.item(), own.grad


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_ranks_equal_one_process(on_ranks, ranks):
    """Each has the whole loss; the mean over ranks of the gradients is that of one process."""
    expected, gradient = on_rank(World(rank=0, size=1, device=torch.device("cpu")))
    answers = on_ranks(on_rank, ranks)
    assert [loss for loss, _ in answers] == pytest.approx([expected] * ranks, rel=1e-12)
    assert (torch.cat([part for _, part in answers]) / ranks - gradient).abs().max() <= 1e-12
