"""What every run that starts from a file of weights holds at step 0: all of them, in every copy of the encoder."""

import pkgutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import eyespot.pretrain.objectives
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.engine import DeepSpeedConfig, Settings, make_engine
from eyespot.pretrain.loop.initial_weights import encoder_copies, first_objective
from eyespot.pretrain.networks.encoders import features, make_encoder
from eyespot.pretrain.networks.eval_mode import at_rest
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.optimizers import make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

sys.path.insert(0, str(Path(__file__).parent))
from engine_states import ENGINES, NUM_SAMPLES, whole_state

METHODS = [info.name for info in pkgutil.iter_modules(eyespot.pretrain.objectives.__path__)]
TEACHERS = {
    "byol": 2,
    "capi": 2,
    "data2vec": 2,
    "dino": 2,
    "dinov2": 2,
    "dinov3": 3,
    "ibot": 2,
    "ijepa": 2,
    "moco": 2,
    "moco_v3": 2,
    "msn": 2,
}
"""Copies of the encoder in the methods that have more than one."""

pytestmark = [pytest.mark.slow]


def given_weights(method: str) -> dict[str, torch.Tensor]:
    """Of an encoder that no seed of a run draws."""
    torch.manual_seed(1234)
    return {
        name: tensor.clone() for name, tensor in make_encoder(make_run(f"{method}_tiny").encoder).state_dict().items()
    }


def check_features(objective: Objective, run: Run) -> None:
    """Every copy of the encoder gives what timm's own model gives with the file's weights, to the bit."""
    assert run.start.weights is not None
    theirs = make_encoder(run.encoder).eval()
    theirs.load_state_dict(load_file(run.start.weights))
    images = torch.randn(2, 3, run.encoder.image_size, run.encoder.image_size)
    with at_rest(objective):
        for encoder in encoder_copies(objective):
            assert torch.equal(features(encoder, images), features(theirs, images))


def states(
    world: process_group.World, folder: Path, methods: dict[str, tuple[str, ...]]
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """For each method and engine: the whole state before the first step."""
    results: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for method, engine_names in methods.items():
        run = make_run(f"{method}_tiny")
        run.start.weights, run.run_dir = folder / f"{method}.safetensors", folder / "run"
        for engine_name in engine_names:
            name, _, stage = engine_name.partition(" ")
            if run.optim.name == "lars" and name == "deepspeed":
                continue
            objective = first_objective(run, torch.arange(NUM_SAMPLES))
            if engine_name == "ddp":
                check_features(objective, run)
            engine = make_engine(
                name,
                objective,
                world,
                lambda module, optim=run.optim: make_optimizer(module, optim),
                Settings(deepspeed=DeepSpeedConfig(stage=int(stage or 2))),
            )
            results.setdefault(method, {})[engine_name] = whole_state(engine)
            engine.close()
    return results


def engines_of(ranks: int, *, thorough: bool) -> dict[str, tuple[str, ...]]:
    """On one process every method on ddp; on two moco, which has teachers, on every engine, and mae, which has none."""
    if thorough:
        return {method: ENGINES if method in TEACHERS else ("ddp", "fsdp") for method in METHODS}
    if ranks == 1:
        return dict.fromkeys(METHODS, ("ddp",))
    return {"moco": ENGINES, "mae": ("ddp", "fsdp")}


@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_copy_of_the_encoder_holds_the_files_tensors(on_ranks, tmp_path, ranks, thorough):
    methods = engines_of(ranks, thorough=thorough)
    for method in methods:
        save_file(given_weights(method), tmp_path / f"{method}.safetensors")
    for answers in on_ranks(states, ranks, tmp_path, methods):
        for method, engines in answers.items():
            given = given_weights(method)
            some = next(iter(given))
            for engine_name, state in engines.items():
                found = [name for name in state if name.startswith("model.") and name.endswith(some)]
                copies = [each.removesuffix(some) for each in found if state[each].shape == given[some].shape]
                assert len(copies) == TEACHERS.get(method, 1), (method, engine_name, copies)
                for copy in copies:
                    for name, tensor in given.items():
                        assert np.array_equal(state[copy + name], tensor.numpy()), (method, engine_name, copy + name)
