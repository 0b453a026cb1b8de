"""What every run that starts from a file of weights holds at step 0: all of them, in every copy of the encoder."""

import pkgutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import eyespot.pretrain.objectives
from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.engine import DeepSpeedConfig, Settings, make_engine
from eyespot.pretrain.loop.initial_weights import first_objective
from eyespot.pretrain.networks.encoders import make_encoder
from eyespot.pretrain.optim.optimizers import make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

sys.path.insert(0, str(Path(__file__).parent))
from engine_states import ENGINES, NUM_SAMPLES, whole_state

METHODS = [info.name for info in pkgutil.iter_modules(eyespot.pretrain.objectives.__path__)]
TEACHERS = {"byol": 2, "dino": 2, "moco": 2, "moco_v3": 2}
"""Copies of the encoder in the methods that have more than one."""

pytestmark = [pytest.mark.slow]


def given_weights(method: str) -> dict[str, torch.Tensor]:
    """Of an encoder that no seed of a run draws."""
    torch.manual_seed(1234)
    return {
        name: tensor.clone() for name, tensor in make_encoder(make_run(f"{method}_tiny").encoder).state_dict().items()
    }


def states(world: process_group.World, folder: Path, methods: list[str]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """For each method and engine: the whole state before the first step."""
    results: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for method in methods:
        run = make_run(f"{method}_tiny")
        run.start.weights, run.run_dir = folder / f"{method}.safetensors", folder / "run"
        for engine_name in ENGINES if method in TEACHERS else ("ddp", "fsdp"):
            name, _, stage = engine_name.partition(" ")
            if run.optim.name == "lars" and name == "deepspeed":
                continue
            engine = make_engine(
                name,
                first_objective(run, torch.arange(NUM_SAMPLES)),
                world,
                lambda module, optim=run.optim: make_optimizer(module, optim),
                Settings(deepspeed=DeepSpeedConfig(stage=int(stage or 2))),
            )
            results.setdefault(method, {})[engine_name] = whole_state(engine)
            engine.close()
    return results


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_copy_of_the_encoder_holds_the_files_tensors(on_ranks, tmp_path, ranks):
    for method in METHODS:
        save_file(given_weights(method), tmp_path / f"{method}.safetensors")
    for answers in on_ranks(states, ranks, tmp_path, METHODS):
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
