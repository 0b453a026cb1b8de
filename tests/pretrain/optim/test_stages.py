"""Who learns when, by names; what waits stays bit for bit under every optimiser and engine."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from step_passes import take_passes

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import ENGINES, Settings, make_engine
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.classify import Classify
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer, set_rate


def classifier(name: str = "test_vit", **changes) -> Classify:
    torch.manual_seed(0)
    size = {"patch_size": 4} if "vit" in name else {}
    return Classify.Config(num_classes=3, **changes).build(
        make_encoder(EncoderConfig(name=name, image_size=16, **size)), 16
    )


def rates(module, optimizer, done: float) -> dict[str, float]:
    set_rate(optimizer, 2.0, done)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {names[id(each)]: group["lr"] for group in optimizer.param_groups for each in group["params"]}


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_head_then_last_blocks_then_all(layer_decay):
    module = classifier()
    optim = OptimConfig(stages=(0.1, 0.4), stage_blocks=2, stage_scale=0.25, layer_decay=layer_decay)
    optimizer = make_optimizer(module, optim)
    plain = rates(module, make_optimizer(module, OptimConfig(layer_decay=layer_decay)), 0.0)
    late = ("encoder.blocks.4.", "encoder.blocks.5.", "encoder.norm.")
    for done, scale, others in (
        (0.0, 0.0, 0.0),
        (0.099, 0.0, 0.0),
        (0.1, 0.25, 0.0),
        (0.39, 0.25, 0.0),
        (0.4, 1.0, 1.0),
    ):
        for name, rate in rates(module, optimizer, done).items():
            factor = scale if name.startswith(late) else others if name.startswith("encoder.") else 1.0
            assert rate == pytest.approx(factor * plain[name]), (name, done)
    assert rates(module, optimizer, 1.0).keys() == plain.keys()
    once = make_optimizer(module, OptimConfig(stages=(0.1,), layer_decay=layer_decay))
    assert rates(module, once, 0.05)["encoder.blocks.5.attn.qkv.weight"] == 0
    assert rates(module, once, 0.1) == pytest.approx(plain)


def test_a_convolutional_encoder_is_cut_at_its_residual_blocks():
    module = classifier("resnet18")
    found = rates(module, make_optimizer(module, OptimConfig(stages=(0.1, 0.4), stage_blocks=1)), 0.2)
    learn = {".".join(name.split(".")[:3]) for name, rate in found.items() if rate}
    assert learn == {"encoder.layer4.1", "head.weight", "head.bias"}


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars", "muon", "schedulefree"])
def test_what_waits_stays_bit_for_bit(name):
    module = classifier()
    optimizer = make_optimizer(module, OptimConfig(name=name, stages=(0.5,), weight_decay=0.3))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    for done in (0.0, 0.2, 0.4):
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        set_rate(optimizer, 0.1, done)
        optimizer.step()
    changed = {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"head.weight", "head.bias"}
    set_rate(optimizer, 0.1, 0.5)
    optimizer.step()
    assert not torch.equal(module.encoder.blocks[0].attn.qkv.weight, before["encoder.blocks.0.attn.qkv.weight"])


def test_what_cannot_be_thawed_is_refused():
    with pytest.raises(UserError, match=r"optim.stage_blocks 7: the encoder has 6 blocks; lower it"):
        make_optimizer(classifier(), OptimConfig(stages=(0.1, 0.2), stage_blocks=7))
    make_optimizer(classifier(), OptimConfig(stages=(0.1,), stage_blocks=7))  # no stage of blocks
    with pytest.raises(UserError, match=r"optim.stages \(0.1,\): nothing of an encoder learns beside a head"):
        make_optimizer(classifier(frozen=True), OptimConfig(stages=(0.1,)))


def train(name: str, world: World, folder: Path, steps: Iterable[int], start: Path | None = None) -> None:
    """Of six steps, two in each stage; a checkpoint after every one."""
    optim = OptimConfig(stages=(1 / 3, 2 / 3), stage_blocks=1)
    engine = make_engine(name, classifier(), world, lambda module: make_optimizer(module, optim), Settings())
    if start is not None:
        checkpoint.load(start, engine.load_tensors)
    writer = CheckpointWriter(folder, keep=6)
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images, rows = torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8).chunk(world.size)[world.rank]
        batch = Batch(views=[images[rows]], ids=rows, epochs=rows * 0, labels=rows % 3, seed=step)
        take_passes(engine, [(batch, step)])
        assert engine.step(1e-2, done=step / 6)[1]
        meta = checkpoint.Meta(step=step + 1, loader={}, world_size=world.size, run_key="k")
        writer.save(engine.save_tensors(), meta, wait=True)
    writer.close()
    engine.close()


def train_and_resume(world: World, folder: Path) -> None:
    for name in ENGINES:
        train(name, world, folder / name, range(6))
        train(name, world, folder / f"{name} resumed", range(3, 6), folder / name / "checkpoints" / "step-00000003")


@pytest.mark.slow
def test_on_two_ranks_every_engine_waits_and_goes_on_from_the_middle_of_a_stage(on_ranks, tmp_path):
    on_ranks(train_and_resume, 2, tmp_path)
    before = classifier().state_dict()
    for name in ENGINES:
        states = [checkpoint.read_module(tmp_path / name / "checkpoints" / f"step-{step:08d}") for step in range(1, 7)]
        learned = [{key for key in before if not torch.equal(state[key], before[key])} for state in states]
        assert learned[1] == {"head.weight", "head.bias"}
        late = {key for key in before if key.startswith(("encoder.blocks.5.", "encoder.norm."))}
        assert learned[3] == learned[1] | late and learned[5] == before.keys(), name
        resumed = checkpoint.read_module(checkpoint.newest(tmp_path / f"{name} resumed"))
        assert all(torch.equal(resumed[key], states[5][key]) for key in before), name
        same = checkpoint.read_module(checkpoint.newest(tmp_path / "ddp"))
        assert all(torch.allclose(states[5][key], same[key], atol=1e-5) for key in before if "qkv.bias" not in key), (
            name
        )
