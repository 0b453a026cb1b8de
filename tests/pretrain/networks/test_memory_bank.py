"""The bank against a slow one: a dictionary of vectors, updated sample by sample."""

import pytest
import torch

from eyespot.pretrain.networks.memory_bank import SampleBank, rows_of

IDS = torch.tensor([2, 3, 5, 8, 13, 21])


def make_bank() -> SampleBank:
    torch.manual_seed(0)
    return SampleBank(IDS, 4).double()


def steps() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and vectors of three steps; in the second a sample comes twice."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.tensor(chosen) for chosen in ([8, 2, 21, 3], [5, 8, 13, 5], [2, 3, 5, 21])]
    vectors = [torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in ids]
    return [(one, torch.nn.functional.normalize(many, dim=1)) for one, many in zip(ids, vectors, strict=True)]


def slow_bank(momentum: float) -> torch.Tensor:
    bank = dict(zip(IDS.tolist(), make_bank().vectors.unbind(), strict=True))
    for ids, vectors in steps():
        before = dict(bank)
        for number, vector in zip(ids.tolist(), vectors, strict=True):
            moved = momentum * before[number] + (1 - momentum) * vector
            bank[number] = moved / moved.norm()
    return torch.stack([bank[number] for number in IDS.tolist()])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_rows_follow_what_was_seen(accumulate):
    bank = make_bank()
    for ids, vectors in steps():
        for part in torch.arange(4).chunk(accumulate):
            bank.wait(rows_of(bank.ids, ids[part]), vectors[part])
        bank.update(0.5)
    assert torch.allclose(bank.vectors, slow_bank(0.5), atol=1e-14)


def test_the_bank_begins_normalised():
    assert torch.allclose(make_bank().vectors.norm(dim=1), torch.ones(len(IDS)).double())


def test_rows_of_sparse_ids():
    assert rows_of(IDS, torch.tensor([21, 2, 8])).tolist() == [5, 0, 3]
    assert rows_of(IDS, torch.tensor([4, 99])).tolist() == [2, 5]  # not among them: a neighbour's


def test_a_skipped_step_leaves_nothing():
    bank = make_bank()
    before = bank.vectors.clone()
    bank.wait(torch.tensor([0]), torch.ones(1, 4).double())
    bank.forget()
    bank.update(0.5)
    assert torch.equal(bank.vectors, before)
