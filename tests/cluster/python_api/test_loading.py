"""The parts of a run in a loop of one's own."""

from itertools import chain, islice

import pytest
import torch
from torch.utils.data import DataLoader

import eyespot


@pytest.fixture
def run(digits):
    return eyespot.recipe("mae_tiny", data={"shards": digits, "batch_size": 32, "num_threads": 1})


def ids(loader, count):
    return [batch.ids.tolist() for batch in islice(loader, count)]


def test_a_state_goes_on_and_ranks_share_a_batch(run, digits):
    loader = eyespot.loader(run)
    first, state, then = ids(loader, 2), loader.state_dict(), ids(loader, 2)
    assert state["samples_consumed"] == 64 and [len(one) for one in first] == [32, 32]
    assert ids(eyespot.loader(run, state=state), 2) == then
    loader.load_state_dict(state)
    assert ids(loader, 2) == then
    halves = [eyespot.loader(run, rank=rank, num_ranks=2) for rank in (0, 1)]
    assert [one + other for one, other in zip(ids(halves[0], 2), ids(halves[1], 2), strict=True)] == first
    views = eyespot.objective(run).views()
    of_shards = eyespot.loader(digits, views=views, batch_size=16, seed=run.seed)
    assert [*chain(*ids(of_shards, 4))] == [*chain(*first)]
    for one in (loader, *halves, of_shards):
        one.close()
    with pytest.raises(ValueError, match="closed"):
        next(loader)


def test_torch_s_own_loader_takes_it(run):
    loader = eyespot.loader(run)
    expected = ids(eyespot.loader(run), 2)
    assert ids(DataLoader(loader, batch_size=None), 2) == expected
    assert loader.state_dict()["samples_consumed"] == 64
    with pytest.raises(eyespot.UserError, match="num_workers"):
        next(iter(DataLoader(loader, batch_size=None, num_workers=1)))


def test_an_objective_learns(run):
    torch.manual_seed(0)
    objective, loader = eyespot.objective(run), eyespot.loader(run)
    loss = objective(next(loader))["loss"]
    loss.backward()
    assert loss.isfinite() and any(p.grad is not None for p in objective.encoder.parameters())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda run: eyespot.loader(5), "^source: a int; give a run"),
        (lambda run: eyespot.loader(run, views=3), "^views: a int"),
        (lambda run: eyespot.loader(run, batch_size="x"), "^batch_size: a str; give a whole number"),
        (lambda run: eyespot.loader(run, rank=2, num_ranks=2), r"^rank 2: there are 2 ranks; it lies in 0\.\.1"),
        (lambda run: eyespot.loader(run, batch_size=33, num_ranks=2), r"^data\.batch_size 33: must be a multiple of 2"),
        (lambda run: eyespot.loader(run, device="gpu"), "^device 'gpu': choose auto, cpu or cuda"),
        (lambda run: eyespot.loader(run.data.shards), "^views: of shards .* alone nobody knows them"),
        (lambda run: eyespot.loader(run, state=4), "^state: a int"),
        (lambda run: eyespot.loader(run).load_state_dict(None), "^state: a NoneType"),
        (lambda run: eyespot.objective("mae_tiny"), r"^run: a str; make it with eyespot\.recipe"),
    ],
)
def test_what_is_wrong_is_named(run, how, message, untyped):
    with pytest.raises(eyespot.UserError, match=message):
        how(run)
