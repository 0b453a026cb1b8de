"""The contrastive losses in float64 against slow sums over the whole batch: values and all gradients, on 1 to 4 ranks.

Four processes of gloo are started once; groups of the first 1, 2, 3 and 4 of them run every case.
"""

import functools
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.losses import contrastive, rank_blocks, tiled_logsumexp

PER_RANK, DIM, MOST_RANKS, RINGS = 6, 5, 4, (2, 3)
Rows = dict[str, Tensor]


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def slow_nt_xent(views, temperature, ids, decoupled=False, tau_plus=0.0, beta=0.0):
    """Term by term as the papers write it."""
    units, total, terms = [unit(view) for view in views], 0.0, 0
    for one, query_view in enumerate(units):
        for other, key_view in enumerate(units):
            for sample in range(len(ids) if one != other else 0):
                query = query_view[sample]
                logits = torch.cat([view[ids != ids[sample]] @ query for view in units]) / temperature
                positive, negatives = torch.exp(query @ key_view[sample] / temperature), torch.exp(logits)
                weights = torch.exp(beta * logits)
                total_negative = len(logits) * (weights * negatives).sum() / weights.sum() if beta else negatives.sum()
                if tau_plus:
                    corrected = (total_negative - tau_plus * len(logits) * positive) / (1 - tau_plus)
                    total_negative = torch.maximum(
                        corrected, len(logits) * torch.exp(-1 / torch.as_tensor(temperature, dtype=torch.float64))
                    )
                total = total - torch.log(positive / (total_negative if decoupled else positive + total_negative))
                terms += 1
    return total / terms


def slow_moco(queries, keys, queue, temperature, ids, queue_ids):
    losses = []
    for query, key, id in zip(unit(queries), unit(keys), ids, strict=True):
        logits = torch.cat([query @ key[:, None], queue[queue_ids != id] @ query]) / temperature
        losses.append(-logits.log_softmax(dim=0)[0])
    return torch.stack(losses).mean()


def without_twins(logits, ids):
    """Each row's own sample stands in its column and nowhere else."""
    twins = (ids[:, None] == ids) & ~torch.eye(len(ids), dtype=torch.bool)
    return logits.masked_fill(twins, -torch.inf)


def slow_moco_v3(queries, keys, temperature, ids):
    logits = without_twins(unit(queries) @ unit(keys).T / temperature, ids)
    return F.cross_entropy(logits, torch.arange(len(queries)))


def slow_supcon(views, labels, temperature):
    rows, sample = unit(torch.cat(views)), torch.arange(len(labels)).repeat(len(views))
    losses = []
    for i in range(len(rows)):
        others = torch.arange(len(rows)) != i
        same_label = (labels[sample] == labels[sample[i]]) & (labels[sample[i]] >= 0)
        positives = others & (same_label | (sample == sample[i]))
        logits = rows @ rows[i] / temperature
        losses.append(-(logits[positives] - logits[others].logsumexp(dim=0)).mean())
    return torch.stack(losses).mean()


def slow_clip(x, y, scale, ids):
    logits, targets = without_twins(scale * unit(x) @ unit(y).T, ids), torch.arange(len(x))
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def slow_uniformity(rows, t, ids):
    """Pair by pair, at the squared distance itself."""
    units, pairs = unit(rows), []
    for i in range(len(ids)):
        pairs += [torch.exp(-t * (units[i] - units[j]).square().sum()) for j in range(i) if ids[i] != ids[j]]
    return torch.stack(pairs).mean().log()


def nt_xent(rows: Rows, t: Tensor | float, group, *, slow: bool, num_views: int = 2, by_id: bool = False, **variant):
    views = [rows[f"view{number}"] for number in range(num_views)]
    if slow:
        ids = rows["ids"] if by_id else torch.arange(len(rows["ids"]))
        return slow_nt_xent(views, t, ids, **variant)
    return contrastive.nt_xent_loss(views, t, group=group, ids=rows["ids"] if by_id else None, **variant)


def moco(rows: Rows, t: Tensor | float, group, *, slow: bool, by_id: bool = False):
    queue_ids = torch.arange(11) if by_id else torch.full((11,), -1)
    if slow:
        return slow_moco(rows["view0"], rows["view1"].detach(), QUEUE, t, rows["ids"], queue_ids)
    known = {"ids": rows["ids"], "queue_ids": queue_ids} if by_id else {}
    return contrastive.moco_loss(rows["view0"], rows["view1"], QUEUE, t, **known)


def moco_v3(rows: Rows, t: Tensor | float, group, *, slow: bool, by_id: bool = False):
    if slow:
        ids = rows["ids"] if by_id else torch.arange(len(rows["ids"]))
        return slow_moco_v3(rows["view0"], rows["view1"].detach(), t, ids)
    known = {"ids": rows["ids"]} if by_id else {}
    return contrastive.moco_v3_loss(rows["view0"], rows["view1"], t, group=group, **known)


def supcon(rows: Rows, t: Tensor | float, group, *, slow: bool, num_views: int = 2):
    views = [rows[f"view{number}"] for number in range(num_views)]
    if slow:
        return slow_supcon(views, rows["labels"], t)
    return contrastive.supcon_loss(views, rows["labels"], t, group=group)


def clip(rows: Rows, t: Tensor | float, group, *, slow: bool, by_id: bool = False):
    if slow:
        return slow_clip(rows["view0"], rows["view1"], 1 / t, rows["ids"] if by_id else torch.arange(len(rows["ids"])))
    known = {"ids": rows["ids"]} if by_id else {}
    return contrastive.clip_loss(rows["view0"], rows["view1"], 1 / t, group=group, **known)


def uniformity(rows: Rows, t: Tensor | float, group, *, slow: bool, by_id: bool = False):
    if slow:
        return slow_uniformity(rows["view0"], 1 / t, rows["ids"] if by_id else torch.arange(len(rows["ids"])))
    return contrastive.uniformity_loss(rows["view0"], 1 / t, group=group, ids=rows["ids"] if by_id else None)


QUEUE = unit(torch.randn(11, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(7)))
LOSSES: dict[str, Callable] = {
    "nt_xent": nt_xent,
    "nt_xent, 3 views": partial(nt_xent, num_views=3),
    "nt_xent, 4 views": partial(nt_xent, num_views=4),
    "nt_xent, ids": partial(nt_xent, by_id=True),
    "decoupled": partial(nt_xent, decoupled=True),
    "debiased": partial(nt_xent, tau_plus=0.05),
    "debiased, ids, 3 views": partial(nt_xent, tau_plus=0.05, num_views=3, by_id=True),
    "hard": partial(nt_xent, beta=0.7),
    "hard, debiased, decoupled, ids": partial(nt_xent, beta=0.7, tau_plus=0.05, decoupled=True, by_id=True),
    "moco": moco,
    "moco, ids": partial(moco, by_id=True),
    "moco_v3": moco_v3,
    "moco_v3, ids": partial(moco_v3, by_id=True),
    "clip, ids": partial(clip, by_id=True),
    "supcon": supcon,
    "supcon, 3 views": partial(supcon, num_views=3),
    "clip": clip,
    "uniformity": uniformity,
    "uniformity, ids": partial(uniformity, by_id=True),
}
TEMPERATURES = {"0.2": 0.2, "0.01": 0.01, "learnable": 0.15}
CASES = [(name, temperature) for name in LOSSES for temperature in TEMPERATURES]
COMPILED = [("nt_xent", "learnable"), ("clip", "learnable"), ("hard, debiased, decoupled, ids", "0.2")]
COMPILED += [(name, "0.2") for name in ("nt_xent, 3 views", "moco, ids", "moco_v3", "supcon", "uniformity, ids")]


def make_rows(num_ranks: int) -> Rows:
    """A batch whose ranks differ: in length, in spread, in labels; sample 1 is also the last one."""
    generator = torch.Generator().manual_seed(num_ranks)
    size = num_ranks * PER_RANK
    rank = torch.arange(size)[:, None] // PER_RANK
    sample = torch.randn(size, DIM, dtype=torch.float64, generator=generator)
    rows = {}
    for number in range(4):
        noise = torch.randn(size, DIM, dtype=torch.float64, generator=generator)
        rows[f"view{number}"] = (sample + (0.3 + rank) * noise + rank) * (1 + rank)
    rows["ids"] = torch.arange(size)
    rows["ids"][-1] = 1
    rows["labels"] = torch.arange(size) % 4 - 1 + (torch.arange(size) // PER_RANK == 2) * 5
    return rows


def evaluate(rows: Rows, case: tuple[str, str], group, *, slow: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradients in every view and, where it is learnable, the temperature."""
    name, temperature = case
    leaves = {key: value.clone().requires_grad_() for key, value in rows.items() if key.startswith("view")}
    t = TEMPERATURES[temperature]
    if temperature == "learnable":
        t = leaves["temperature"] = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    loss = LOSSES[name](rows | leaves, t, group, slow=slow)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return loss.detach(), {key: value for key, value in zip(leaves, gradients, strict=True) if value is not None}


class Towers(nn.Module):
    """The least that DDP can train: a projection of the rows, and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.project = nn.Linear(DIM, 4, bias=False, dtype=torch.float64)
        self.temperature = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, rows: Rows, group=None) -> Tensor:
        views = [self.project(rows[f"view{number}"]) for number in range(2)]
        return contrastive.nt_xent_loss(views, self.temperature, group=group)


def through_ddp(rows: Rows, group) -> list[Tensor]:
    module = nn.parallel.DistributedDataParallel(Towers(), process_group=group)
    module(rows, group).backward()
    return [parameter.grad for parameter in module.parameters()]


def compiled(rows: Rows, group, cases: list[tuple[str, str]]) -> dict[tuple[str, str], tuple]:
    """Losses as one graph each."""
    answers = {}
    for case in cases:
        torch.compiler.reset()
        run = torch.compile(partial(evaluate_loss, case, group), fullgraph=True, backend="aot_eager")
        leaves = {key: value.clone().requires_grad_(key.startswith("view")) for key, value in rows.items()}
        leaves["temperature"] = torch.tensor(TEMPERATURES[case[1]], dtype=torch.float64, requires_grad=True)
        loss = run(leaves)
        loss.backward()
        answers[case] = (loss.detach(), {key: leaf.grad for key, leaf in leaves.items() if leaf.grad is not None})
    return answers


def evaluate_loss(case: tuple[str, str], group, rows: Rows) -> Tensor:
    temperature = rows["temperature"] if case[1] == "learnable" else TEMPERATURES[case[1]]
    return LOSSES[case[0]](rows, temperature, group, slow=False)


def unequal(rank: int, group) -> str | None:
    try:
        contrastive.nt_xent_loss([torch.randn(4 + rank, DIM) for _ in range(2)], 0.1, group=group)
    except UserError as error:
        return str(error)


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    tiled_logsumexp.TILE_ROWS["cpu"] = 5
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=MOST_RANKS)
    groups = {size: dist.new_group(list(range(size))) for size in range(1, MOST_RANKS)} | {MOST_RANKS: None}
    found = {}
    for size, group in groups.items():
        if rank >= size:
            continue
        own = slice(rank * PER_RANK, (rank + 1) * PER_RANK)
        rows = {key: value[own] for key, value in make_rows(size).items()}
        for way, limit in (("gathered", 2**28), ("ring", 0))[: 1 + (size in RINGS)]:
            rank_blocks.GATHER_BYTES = limit
            found |= {(size, way, case): evaluate(rows, case, group, slow=False) for case in CASES}
            if size == 2:
                cases = COMPILED if way == "gathered" else COMPILED[:1]
                answers = compiled(rows, group, cases)
                found |= {(size, f"compiled, {way}", case): answer for case, answer in answers.items()}
        rank_blocks.GATHER_BYTES = 2**28
        found[size, "ddp"] = through_ddp(rows, group)
        found[size, "unequal"] = unequal(rank, group)
    dist.barrier()
    dist.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each rank found."""
    folder, context = tmp_path_factory.mktemp("ranks"), multiprocessing.get_context("spawn")
    processes = [context.Process(target=worker, args=(rank, folder)) for rank in range(MOST_RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * MOST_RANKS
    return [torch.load(folder / f"{rank}.pt") for rank in range(MOST_RANKS)]


@functools.cache
def expected(size: int, case: tuple[str, str]) -> tuple[Tensor, dict[str, Tensor]]:
    return evaluate(make_rows(size), case, None, slow=True)


def assert_same(answers: list[tuple[Tensor, dict[str, Tensor]]], case: tuple[str, str]) -> None:
    """The mean over ranks of losses and gradients is the slow sum's over the whole batch, at 1e-10."""
    size = len(answers)
    loss, gradients = expected(size, case)
    assert abs(sum(answer[0] for answer in answers) / size - loss) <= 1e-10 * max(1, abs(loss))
    assert {"view0"} <= gradients.keys() == answers[0][1].keys()
    for name, wanted in gradients.items():
        parts = [answer[1][name] for answer in answers]
        got = torch.stack(parts).mean(dim=0) if name == "temperature" else torch.cat(parts) / size
        assert (got - wanted).abs().max() <= 1e-10 * max(1, wanted.abs().max())
        if wanted.norm() > 1e-3:
            assert got.norm() / wanted.norm() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_one_process_without_a_group(case, monkeypatch):
    monkeypatch.setitem(tiled_logsumexp.TILE_ROWS, "cpu", 5)
    for size in (1, 3):
        loss, gradients = expected(size, case)
        got, got_gradients = evaluate(make_rows(size), case, None, slow=False)
        assert abs(got - loss) <= 1e-10 * max(1, abs(loss))
        assert gradients.keys() == got_gradients.keys()
        for name, wanted in gradients.items():
            assert (got_gradients[name] - wanted).abs().max() <= 1e-10 * max(1, wanted.abs().max())


@pytest.mark.parametrize(
    ("way", "size"), [*(("gathered", size) for size in range(1, MOST_RANKS + 1)), *(("ring", size) for size in RINGS)]
)
def test_ranks_are_one_process(found, way, size):
    for case in CASES:
        assert_same([found[rank][size, way, case] for rank in range(size)], case)


@pytest.mark.parametrize(("way", "cases"), [("gathered", COMPILED), ("ring", COMPILED[:1])])
def test_compiled_as_one_graph(found, way, cases):
    for case in cases:
        assert_same([found[rank][2, f"compiled, {way}", case] for rank in range(2)], case)


@pytest.mark.parametrize("size", range(1, MOST_RANKS + 1))
def test_ddp_gets_the_gradient_of_the_whole_batch(found, size):
    whole = Towers()
    whole(make_rows(size)).backward()
    for rank in range(size):
        for got, parameter in zip(found[rank][size, "ddp"], whole.parameters(), strict=True):
            assert (got - parameter.grad).abs().max() <= 1e-12


@pytest.mark.parametrize("size", range(2, MOST_RANKS + 1))
def test_unequal_batches_stop_every_rank(found, size):
    messages = {found[rank][size, "unequal"] for rank in range(size)}
    rows = [2 * (4 + rank) for rank in range(size)]
    assert messages == {f"batch: the ranks have {rows} rows; give every rank the same number"}


def test_autocast_leaves_the_loss_in_float32():
    views = [torch.randn(20, DIM, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = contrastive.nt_xent_loss(views, 0.01)
            gradients = torch.autograd.grad(loss, views)
        assert loss.dtype == torch.float32
        assert gradients[0].dtype == torch.bfloat16
        results.append((loss, *gradients))
    for plain, under_autocast in zip(*results, strict=True):
        assert torch.equal(plain, under_autocast)


def test_float32_keeps_its_digits_where_the_loss_is_nearly_nothing():
    """Cross-entropy would lose them: it takes the difference of two nearly equal numbers."""
    samples = torch.eye(64)[:, :32] * 3 + torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) * 0.3
    gradients = []
    for dtype in (torch.float32, torch.float64):
        views = [(samples.to(dtype) + shift).requires_grad_() for shift in (0.0, 0.01)]
        loss = contrastive.nt_xent_loss(views, 0.04)
        gradients.append(torch.cat(torch.autograd.grad(loss, views)).double())
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert loss < 0.2
    assert error < 2e-5


def test_a_batch_of_one_sample_has_no_pair_to_be_uniform():
    """Two rows on either side of an epoch's border."""
    rows = torch.randn(2, DIM, requires_grad=True)
    loss = contrastive.uniformity_loss(rows, 2.0, ids=torch.tensor([5, 5]))
    assert loss == 0
    assert (torch.autograd.grad(loss, rows)[0] == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: contrastive.nt_xent_loss([x, x], 0.0), "temperature 0.0: must be above 0"),
        (lambda x: contrastive.nt_xent_loss([x], 0.1), "views 1: "),
        (lambda x: contrastive.supcon_loss([x], torch.zeros(3, dtype=torch.int64), 0.1), "views 1: "),
        (lambda x: contrastive.nt_xent_loss([x[:1], x[:1]], 0.1), "batch size 1: "),
        (lambda x: contrastive.clip_loss(x[:1], x[:1], 10.0), "batch size 1: "),
        (lambda x: contrastive.moco_v3_loss(x[:1], x[:1], 0.2), "batch size 1: "),
    ],
)
def test_what_cannot_be_is_one_line(call, message):
    with pytest.raises(UserError, match=message):
        call(torch.randn(3, DIM))
