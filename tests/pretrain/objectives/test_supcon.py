"""SupCon against a slow, obvious reference in float64: one pair after the other, the head layer by layer."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from step_passes import take_passes

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.supcon import SupCon
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

SIZE = 16


def make_supcon(encoder: str = "test_resnet") -> SupCon:
    torch.manual_seed(0)
    config = EncoderConfig(name=encoder, image_size=SIZE, patch_size=4 if encoder == "test_vit" else None)
    objective = SupCon.Config(hidden_dim=12, out_dim=7, temperature=0.3).build(make_encoder(config), SIZE)
    with torch.no_grad():  # norms start at shift 0 and residual branches at scale 0; let the comparison see them
        for parameter in objective.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return objective.double()


def make_batch(labels: list[int]) -> Batch:
    generator, count = torch.Generator().manual_seed(1), len(labels)
    views = [torch.randn(count, 3, SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(2)]
    ids = torch.arange(count)
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=torch.tensor(labels), seed=0)


def slow_loss(supcon: SupCon, batch: Batch):
    features = supcon.encoder(torch.cat(batch.views))
    features = features / features.norm(dim=1, keepdim=True)
    first, _, last = supcon.head
    z = (features @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias
    z = [row / row.norm() for row in z]
    count, labels, losses = len(batch), batch.labels.tolist() * 2, []
    for i in range(2 * count):
        others = [k for k in range(2 * count) if k != i]
        positives = [k for k in others if (labels[k] == labels[i] >= 0) or k % count == i % count]
        denominator = sum(torch.exp(z[i] @ z[k] / 0.3) for k in others)
        terms = [torch.log(torch.exp(z[i] @ z[p] / 0.3) / denominator) for p in positives]
        losses.append(-sum(terms) / len(positives))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("labels", [[2, 0, 2, 2, 1], [2, -1, 2, -1, 0], [4, 4, 4, 4, 4]])
def test_loss_and_gradients_equal_the_slow_reference(labels):
    supcon, batch = make_supcon(), make_batch(labels)
    names, parameters = zip(*supcon.named_parameters(), strict=True)
    fast, slow = supcon(batch)["loss"], slow_loss(supcon, batch)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    pairs = zip(names, torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True)
    for name, ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= 1e-10, name
        assert theirs.abs().max() > 1e-8, name


def test_labels_pull_their_images_together():
    """Rows that agree with their labels cost less than the same rows with other labels."""
    supcon, batch = make_supcon(), make_batch([0, 0, 1, 1])
    rows = F.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]], dtype=torch.float64), dim=1)
    both = {"first": rows, "second": rows}
    right = supcon.compare({**both, "labels": batch.labels})["loss"]
    wrong = supcon.compare({**both, "labels": batch.labels[[0, 2, 1, 3]]})["loss"]
    assert right < wrong - 0.5


def gradients(parts: int) -> dict[str, torch.Tensor]:
    objective, batch = make_supcon("test_vit").eval(), make_batch([number % 7 for number in range(64)])
    chunks = zip(*(values.chunk(parts) for values in (*batch.views, batch.ids, batch.labels)), strict=True)
    micro_batches = [
        (Batch(views=[first, second], ids=ids, epochs=torch.zeros_like(ids), labels=labels, seed=0), number)
        for number, (first, second, ids, labels) in enumerate(chunks)
    ]
    engine = make_engine(
        "ddp",
        objective,
        World(rank=0, size=1, device=torch.device("cpu")),
        lambda module: make_optimizer(module, OptimConfig()),
        Settings(accumulate=parts, clip=None, precision="fp32"),
    )
    take_passes(engine, micro_batches)
    return {name: parameter.grad for name, parameter in objective.named_parameters()}


def test_four_micro_batches_of_16_are_one_of_64():
    whole, parts = gradients(1), gradients(4)
    for name, gradient in whole.items():
        assert (parts[name] - gradient).abs().max() <= 1e-10, name
    assert max(gradient.abs().max() for gradient in whole.values()) > 1e-3


def test_two_views_of_the_encoders_size_unless_told():
    for size, image_size in ((0, 32), (24, 32)):
        config = SupCon.Config(view=replace(SupCon.Config().view, size=size))
        first, second = config.build(make_encoder(EncoderConfig(name="test_resnet")), image_size).views().views
        assert first == second
        assert (first.size, first.scale, first.blur) == (size or image_size, (0.08, 1.0), 0.5)


def test_wrong_numbers_name_their_field():
    with pytest.raises(UserError, match=r"objective\.temperature -1"):
        SupCon.Config(temperature=-1.0)
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        SupCon.Config().check_batch(1)


def test_supcon_on_imagenet_has_the_papers_numbers():
    """Khosla et al. 2020, section 4; rate, warm-up and decay from the authors' code."""
    run = make_run("supcon_r50_in1k")
    assert (run.optim.name, run.data.batch_size, run.objective.temperature) == ("lars", 6144, 0.1)
    assert (run.objective.hidden_dim, run.objective.out_dim) == (2048, 128)
    assert run.steps == pytest.approx(350 * 1_281_167 / 6144, abs=1)
    assert (run.optim.lr, run.optim.weight_decay) == (0.3, 1e-4)
