"""Steps are added to their weights and gone; what does not fit is left for others to refuse."""

import pytest
import torch

from eyespot.pretrain.checkpoints.low_rank import is_step, merged


def test_steps_are_in_the_weights():
    torch.manual_seed(0)
    a, b, weight = torch.randn(2, 5).double(), torch.randn(3, 2).double(), torch.randn(3, 5).double()
    tensors = {"x.weight": weight, "x.bias": torch.ones(3), "x.lora_a": a, "x.lora_b": b, "y": torch.ones(1)}
    found = merged(tensors)
    assert list(found) == ["x.weight", "x.bias", "y"] and [name for name in tensors if is_step(name)] == [
        "x.lora_a",
        "x.lora_b",
    ]
    slow = [[weight[o, i] + sum(b[o, r] * a[r, i] for r in range(2)) for i in range(5)] for o in range(3)]
    assert torch.allclose(found["x.weight"], torch.tensor(slow, dtype=torch.float64), rtol=1e-12)
    assert torch.equal(tensors["x.weight"], weight)


@pytest.mark.parametrize("shapes", [((3, 2), (2, 5), (3, 2)), ((3,), (2, 5), (3, 2)), ((3, 5), (2, 5), (4, 2))])
def test_what_a_stranger_wrote_is_left_alone(shapes):
    names = ("x.weight", "x.lora_a", "x.lora_b")
    strange = {name: torch.ones(shape) for name, shape in zip(names, shapes, strict=True)}
    assert merged(strange).keys() == strange.keys()
    assert merged({"x.lora_b": torch.ones(2, 2)}).keys() == {"x.lora_b"}
