"""Sums by label in one process; on several ranks: SupCon's cases in test_contrastive.py."""

import torch

from eyespot.pretrain.losses import label_sums
from eyespot.pretrain.losses.label_sums import label_sums as sums_of


def make(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return rows, torch.tensor([4, -1, 900, 4, -1, 4, 7])


def test_each_row_gets_the_sum_of_its_label():
    rows, labels = make()
    expected = torch.stack([rows[labels == label].sum(dim=0) for label in labels])
    assert torch.allclose(sums_of(rows, labels), expected, rtol=0, atol=1e-14)


def test_the_gradient_is_the_transposes():
    rows, labels = make()
    assert torch.autograd.gradcheck(lambda rows: sums_of(rows, labels), rows.requires_grad_())


def test_the_operator_keeps_torchs_rules():
    rows, labels = make()
    torch.library.opcheck(label_sums._label_sums, (rows.requires_grad_(), labels, ""))
