"""Features of a fixed encoder, standardised by all that it has said."""

import pytest
import torch

from eyespot.pretrain.networks.fixed.standardized import Standardized

WIDTH = 5


def features(step: int, micro: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(10 * step + micro)
    scales = torch.tensor([1e-3, 1.0, 50.0, 2.0, 0.0], dtype=torch.float64)
    drawn = torch.randn(4, 3, 2, WIDTH, generator=generator, dtype=torch.float64)
    return (drawn + 0.3 * step + micro) * scales + torch.tensor([3.0, -1.0, 100.0, 0.0, 7.0], dtype=torch.float64)


def test_statistics_are_those_of_all_vectors_of_all_steps():
    part, seen = Standardized(WIDTH).double(), []
    for step in range(4):
        for micro in range(3):
            seen.append(features(step, micro).flatten(0, -2))
            part(features(step, micro), noted=True)
        part.after_step()
    every = torch.cat(seen)
    assert torch.allclose(part.mean, every.mean(0), rtol=1e-12)
    assert torch.allclose(part.variance, every.var(0, correction=0), rtol=1e-9, atol=1e-12)
    found = part(every, noted=False)
    assert torch.allclose(found[:, :4].mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(found[:, 1:4].std(0, correction=0), torch.ones(3, dtype=torch.float64), rtol=1e-3)
    assert found[:, 4].abs().max() < 1e-6  # a channel that never moves says nothing


def test_until_the_first_step_features_stay_and_a_skipped_one_is_forgotten():
    part, drawn = Standardized(WIDTH).double(), features(0, 0)
    assert torch.allclose(part(drawn, noted=True), drawn, rtol=1e-5)
    part.after_skip()
    part(features(1, 0), noted=True)
    part.after_step(torch.tensor(False))
    assert part.steps == 0
    assert torch.allclose(part(drawn, noted=False), drawn, rtol=1e-5)
    part(drawn, noted=True)
    part.after_step()
    assert part.steps == 1
    assert torch.allclose(part.mean, drawn.flatten(0, -2).mean(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_counts_in_float32_at_least(dtype):
    part = Standardized(WIDTH)
    assert part(features(0, 0).to(dtype), noted=True).dtype == torch.float32
    part.after_step()
    assert part.mean.dtype == torch.float32
