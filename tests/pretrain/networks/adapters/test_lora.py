"""Low-rank steps: nothing changes at step 0, the sum is what everybody sees, and engines agree on it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from step_passes import take_passes
from torch import nn
from torch.nn import functional as F

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.low_rank import is_step, merged
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import DeepSpeedConfig, Engine, Settings, make_engine
from eyespot.pretrain.loop.first_checks import before_folder
from eyespot.pretrain.loop.initial_weights import first_objective, trained_encoder
from eyespot.pretrain.networks.adapters.lora import LowRankLinear, adapt, weights_of
from eyespot.pretrain.networks.ema_teacher import follow, make_teacher
from eyespot.pretrain.networks.encoders import EncoderConfig, features, make_encoder
from eyespot.pretrain.networks.eval_mode import at_rest
from eyespot.pretrain.optim.learning_encoder import learning_encoder
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

METHODS = ("mae", "simclr", "dino", "ibot")
RANK = 3
ENGINES = ("ddp", "fsdp", "deepspeed 1", "deepspeed 2")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        return self.second(self.first(x))


def run_of(method: str, folder: Path) -> Run:
    run = make_run(f"{method}_tiny")
    if "vit" not in run.encoder.name:
        run.encoder = EncoderConfig(name="test_vit", image_size=16, patch_size=4)
    run.start.weights, run.start.lora_rank = folder / f"{method}.safetensors", RANK
    run.run_dir, run.data.batch_size = folder / "run", 6
    if not run.start.weights.exists():
        torch.manual_seed(5)
        save_file(make_encoder(run.encoder).state_dict(), run.start.weights)
    return run


def test_the_sum_is_computed_with_and_learned():
    torch.manual_seed(0)
    encoder = nn.Sequential(Block(), Block()).double()
    plain = make_teacher(encoder)
    assert adapt(encoder, RANK) == 4
    x = torch.randn(5, 8, dtype=torch.float64)
    assert torch.equal(encoder(x), plain(x))
    layer = encoder[0].first
    assert isinstance(layer, LowRankLinear) and {n for n, p in encoder.named_parameters() if p.requires_grad} == {
        n for n in encoder.state_dict() if is_step(n)
    }
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter += 0.1 * torch.randn_like(parameter) if is_step(name) else 0
    weight = layer.weight + layer.lora_b @ layer.lora_a
    assert torch.allclose(layer(x), F.linear(x, weight, layer.bias), rtol=1e-12)
    layer(x).square().sum().backward()
    slope = 2 * layer(x).T @ x  # of the sum of squares, by the weight
    assert torch.allclose(layer.lora_b.grad, slope @ layer.lora_a.T, rtol=1e-10)
    assert torch.allclose(layer.lora_a.grad, layer.lora_b.T @ slope, rtol=1e-10)
    assert layer.weight.grad is None
    plain.load_state_dict(merged(encoder.state_dict()))
    assert torch.allclose(plain(x), encoder(x), rtol=1e-12)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), weights_of(encoder), strict=True))


def test_a_teacher_follows_the_sum():
    torch.manual_seed(0)
    student = make_encoder(EncoderConfig(name="test_vit", image_size=16, patch_size=4)).double()
    teacher = make_teacher(student)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    adapt(student, RANK)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            parameter += torch.randn_like(parameter) if is_step(name) else 0
    for taken in (True, torch.tensor(True)):
        teacher.load_state_dict(before)
        follow(teacher, student, 0.75, taken)
        for name, tensor in merged(student.state_dict()).items():
            assert torch.allclose(teacher.state_dict()[name], 0.75 * before[name] + 0.25 * tensor, rtol=1e-12), name


def test_what_does_not_fit_is_refused():
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=16, patch_size=4))
    with pytest.raises(UserError, match=r"start.lora_rank 64: the encoder has a linear layer of 64 channels; lower it"):
        adapt(encoder, 64)
    with pytest.raises(UserError, match=r"start.lora_rank 2: no linear layer in this encoder's blocks learns"):
        adapt(make_encoder(EncoderConfig(name="resnet18", image_size=32)), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": None}, r"start.lora_rank 3: there are no weights to keep; add --start.model NAME"),
        ({"stage": 3}, r"start.lora_rank 3: ZeRO-3 cuts weights anywhere; use --deepspeed.stage 2 or --engine fsdp"),
        ({"freeze_steps": 900_000}, r"start.freeze_steps 900000: the run has \d+ steps; leave it out, or lower it"),
        ({"freeze_steps": 2, "stages": (0.5,)}, r"start.freeze_steps 2: optim.stages says so, too"),
    ],
)
def test_settings_that_contradict_are_one_line(change, message, tmp_path, digits):
    run = run_of("mae", tmp_path)
    run.data.shards = str(digits)
    if "weights" in change:
        run.start.weights = None
    if "stage" in change:
        run.engine, run.deepspeed.stage = "deepspeed", 3
    run.start.freeze_steps, run.optim.stages = change.get("freeze_steps", 0), change.get("stages", ())
    with pytest.raises(UserError, match=message):
        before_folder(run, World(rank=0, size=1, device=torch.device("cpu")), None)


def made(name: str, run: Run, world: World, optim: OptimConfig) -> Engine:
    kind, _, stage = name.partition(" ")
    objective = first_objective(run, torch.arange(32))
    settings = Settings(deepspeed=DeepSpeedConfig(stage=int(stage or 2)))
    return make_engine(kind, objective, world, lambda module: make_optimizer(module, optim), settings)


def trained(world: World, folder: Path, methods: tuple[str, ...], engines: tuple[str, ...]) -> dict[str, list[float]]:
    """Losses of three steps, and that resuming after the second, with the teachers, gives the third's to the bit."""
    from engine_states import own_batches

    found, optim = dict[str, list[float]](), OptimConfig(lr=1e-3)
    for method in methods:
        for name in engines:
            run, out = run_of(method, folder), folder / f"{method}-{name.replace(' ', '')}-{world.size}"
            run.run_dir = out
            engine = made(name, run, world, optim)
            start = learning_encoder(engine.objective).state_dict() if world.size == 1 else {}
            start = {key: tensor.clone() for key, tensor in start.items()}
            writer = CheckpointWriter(out, keep=3)
            losses, batches = [], own_batches(engine, world)
            for step, batch in enumerate(batches):
                losses.append(float(take_passes(engine, [(batch, step)])[0]["loss"]))
                assert engine.step(1e-2)[1]
                engine.objective.after_step((step + 1) / 10)
                meta = checkpoint.Meta(step=step + 1, loader={}, world_size=world.size, run_key="k")
                writer.save(engine.save_tensors(), meta, wait=True)
            writer.close()
            now = learning_encoder(engine.objective).state_dict() if world.size == 1 else {}
            assert all(is_step(key) != torch.equal(now[key], start[key]) for key in start)
            engine.close()
            again = made(name, run, world, optim)
            checkpoint.load(out / "checkpoints" / "step-00000002", again.load_tensors)
            assert float(take_passes(again, [(batches[2], 2)])[0]["loss"]) == losses[2]
            again.close()
            found[f"{method} {name}"] = losses
    return found


@pytest.mark.slow
@pytest.mark.parametrize("methods", [("dino",), pytest.param(METHODS, marks=pytest.mark.thorough)])
def test_runs_learn_by_it_and_are_read_as_timms(on_ranks, tmp_path, methods):
    (losses,) = on_ranks(trained, 1, tmp_path, methods, ("ddp",))
    for method in methods:
        assert len(set(losses[f"{method} ddp"])) == 3
        run = run_of(method, tmp_path)
        newest = checkpoint.newest(tmp_path / f"{method}-ddp-1")
        plain = trained_encoder(run, newest)  # all of timm's tensors and no other
        objective = first_objective(run, torch.arange(32))
        tensors = {name: torch.empty_like(tensor) for name, tensor in objective.state_dict().items()}
        checkpoint._Stored(newest).fill(named := {f"model.{name}": tensor for name, tensor in tensors.items()})
        objective.load_state_dict({name.removeprefix("model."): tensor for name, tensor in named.items()})
        images = torch.randn(2, 3, run.encoder.image_size, run.encoder.image_size)
        with at_rest(objective), at_rest(plain):
            wanted = features(objective.encoder, images)
            assert torch.allclose(features(plain, images), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_layers_whose_weights_a_block_reads_itself_have_no_step(tmp_path, caplog):
    run = run_of("simclr", tmp_path)
    run.encoder = EncoderConfig(name="beit_base_patch16_224", image_size=32, patch_size=16)
    run.start.weights = None
    with caplog.at_level("INFO", logger="eyespot"):
        objective = first_objective(run, torch.arange(32))
    learning = {name.rsplit(".", 2)[1] for name, p in objective.encoder.named_parameters() if p.requires_grad}
    assert learning == {"proj", "fc1", "fc2"}
    assert "lora: 24 of its parameters stay zero, for blocks read those layers' weights themselves" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("engines", [("ddp", "fsdp"), pytest.param(ENGINES, marks=pytest.mark.thorough)])
def test_engines_on_two_ranks_agree(on_ranks, tmp_path, engines):
    both = on_ranks(trained, 2, tmp_path, ("dino",), engines)
    folders = [tmp_path / f"dino-{name.replace(' ', '')}-2" for name in engines]
    states = [checkpoint.read_module(checkpoint.newest(folder)) for folder in folders]
    for name, losses in both[0].items():
        assert np.allclose(losses, both[0]["dino ddp"], rtol=1e-5), name
    for state in states[1:]:
        wrong = [key for key in state if not torch.allclose(state[key], states[0][key], atol=2e-4)]
        assert not wrong
