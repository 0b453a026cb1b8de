"""What follows a step is kept where the step was taken, and nothing of it reaches the state where it was not."""

import math

import pytest
import torch

from eyespot.pretrain.skipped_step import if_taken

NEW, OLD = torch.tensor([math.nan, 2.0]), torch.tensor([-0.0, 1.0])


@pytest.mark.parametrize("taken", [True, torch.tensor(True)])
def test_the_new_where_it_was_taken(taken):
    assert torch.equal(if_taken(taken, OLD, NEW), OLD)


@pytest.mark.parametrize("taken", [False, torch.tensor(False)])
def test_every_bit_of_the_old_where_it_was_not(taken):
    kept = if_taken(taken, NEW, OLD)
    assert torch.equal(kept.view(torch.int32), OLD.view(torch.int32)), "the sign of a zero, too"
