"""A contrastive objective's two ways through ``forward``: its own loss, and a gradient that is handed in."""

import torch
from torch import Tensor, nn

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Compared, Contrastive


class Pairs(Contrastive):
    """The least that is contrastive: two rows per sample, a learnable scale, and ids that no gradient reaches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def views(self):
        raise AssertionError("not asked for here")

    def embed(self, batch):
        first, second = (self.encoder(view.mean((2, 3))) for view in batch.views)
        return {"first": first, "second": second, "scale": self.scale.expand(len(batch))}

    def targets(self, batch):
        return {"ids": batch.ids}

    def compare(self, rows) -> dict[str, Tensor]:
        logits = rows["scale"].mean() * rows["first"] @ rows["second"].T
        return {"loss": nn.functional.cross_entropy(logits, torch.arange(len(logits))), "newest": rows["ids"].max()}


def make_batch(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(count, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2)]
    ids = torch.arange(count)
    return Batch(views=views, ids=ids, epochs=ids, labels=ids, seed=0)


def gradients(objective: Contrastive) -> dict[str, Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in objective.named_parameters()}
    objective.zero_grad()
    return found


def test_a_rows_gradient_carries_on_to_the_weights():
    objective, batch = Pairs().double(), make_batch()
    scalars = objective(batch)
    assert scalars["newest"] == 5
    scalars["loss"].backward()
    whole = gradients(objective)
    rows = {name: value.detach().requires_grad_() for name, value in objective.embed(batch).items()}
    loss = objective.compare({**rows, **objective.targets(batch)})["loss"]
    handed_in = dict(zip(rows, torch.autograd.grad(loss, list(rows.values())), strict=True))
    of_all = {"loss": torch.tensor(7.5, dtype=torch.float64), "newest": torch.tensor(9)}
    shown = objective(batch, Compared(scalars=of_all, gradients=handed_in))
    assert (float(shown["loss"].detach()), int(shown["newest"])) == (7.5, 9), "what is logged is the whole step's"
    shown["loss"].backward()
    for name, gradient in gradients(objective).items():
        assert torch.allclose(gradient, whole[name], rtol=1e-13, atol=1e-15), name
    assert whole["scale"] != 0


def test_without_targets_there_are_none():
    assert Contrastive.targets(Pairs(), make_batch()) == {}
