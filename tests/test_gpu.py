"""The same code on a GPU: skipped where there is none."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eyespot.cluster.cli import main
from eyespot.data_pipeline.augment.pipeline import view_alteration
from eyespot.data_pipeline.augment.views import CenterView, RandomView, ViewSpec
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.finish_views import ViewFinisher, finish_by_torch
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader, make_pass
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.config import engine_settings
from eyespot.pretrain.distributed.arithmetic import set_arithmetic
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import MicroBatch, make_engine
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.optim.optimizers import make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

RANDOM = ViewSpec(views=(RandomView(size=224),))
PAIR = ViewSpec(views=(RandomView(size=96), RandomView(size=64, scale=(0.05, 0.4))))
ERASED = ViewSpec(views=(RandomView(size=96, erase=1.0),))
LABELLED = ViewSpec(views=(RandomView(size=96, rand_augment=9.0, erase=0.25),))
CENTER = ViewSpec(views=(CenterView(resize=256, size=224),))


@pytest.fixture(scope="module")
def photographs(real_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs") / "shards"
    pack(str(real_data / "caltech10-images.tar"), folder)
    return folder


def spec(shards: Path, views: ViewSpec, device: str, batch_size: int = 32) -> LoaderSpec:
    return LoaderSpec(shards=ShardFolder(shards), views=views, batch_size=batch_size, device=device, seed=3)


@pytest.mark.parametrize("views", [RANDOM, PAIR, ERASED, CENTER], ids=["one", "pair", "erased", "center"])
def test_views_agree_with_the_cpus(photographs, views):
    """nvJPEG and the CPU's decoder round differently: a few levels at edges, half a level on the mean."""
    make = make_pass if views is CENTER else make_loader
    with_gpu, with_cpu = (make(spec(photographs, views, device)) for device in ("cuda:0", "cpu"))
    for _ in range(4):
        on_gpu, on_cpu = next(with_gpu), next(with_cpu)
        assert torch.equal(on_gpu.ids, on_cpu.ids)
        for one, other in zip(on_gpu.views, on_cpu.views, strict=True):
            assert one.device.type == "cuda"
            levels = (one.cpu() - other).abs() * torch.tensor(views.std)[:, None, None] * 255
            assert levels.mean() < 1.0
            assert levels.quantile(0.99) < 8
    with_gpu.close()
    with_cpu.close()


def test_tritons_kernels_give_the_cpus_values():
    """Tolerance: a rounding. Views of every kind, so that all three kernels run."""
    view = RandomView(size=96, jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, blur=0.5, solarize=0.2)
    alteration = view_alteration(view, "view0", 0, np.zeros(64, np.int64), np.arange(64))
    pixels = torch.randint(0, 256, (64, 96, 96, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    finish = ViewFinisher(RANDOM.mean, RANDOM.std)
    (found,), _ = finish([pixels.cuda()], [alteration])
    assert list(finish._proven.values()) == [True]
    expected = finish_by_torch(pixels, alteration, RANDOM.mean, RANDOM.std)
    assert (found.cpu() - expected).abs().max() < 1e-5


def test_tritons_rand_augment_gives_torchs_values():
    """Tolerance: a rounding, which a threshold after a rotation may turn into another level of a few pixels."""
    view, flip = RandomView(size=96, rand_augment=9.0, erase=0.25), np.arange(64) % 2 == 0
    alteration = view_alteration(view, "view0", 0, np.zeros(64, np.int64), np.arange(64))
    pixels = torch.randint(0, 256, (64, 96, 96, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    finish = ViewFinisher(RANDOM.mean, RANDOM.std)
    (found,), _ = finish([pixels.cuda()], [alteration], flip=[flip])
    assert list(finish._proven.values()) == [True]
    expected = finish_by_torch(pixels, alteration, RANDOM.mean, RANDOM.std)
    expected[flip] = expected[flip].flip(3)
    assert ((found.cpu() - expected).abs() > 1e-4).float().mean() < 0.01


@pytest.mark.parametrize("views", [RANDOM, PAIR, LABELLED], ids=["one", "pair", "labelled"])
def test_ranks_and_resume_do_not_change_a_bit(photographs, views):
    whole = make_loader(spec(photographs, views, "cuda:0"))
    batches = [next(whole) for _ in range(6)]
    halves = [make_loader(spec(photographs, views, "cuda:0"), rank, 2) for rank in range(2)]
    for batch in batches[:3]:
        parts = [next(half) for half in halves]
        for number, view in enumerate(batch.views):
            assert torch.equal(view, torch.cat([part.views[number] for part in parts]))
    quarters = [make_loader(spec(photographs, views, "cuda:0"), rank, 4, halves[0].state_dict()) for rank in range(4)]
    for batch in batches[3:]:
        parts = [next(quarter) for quarter in quarters]
        for number, view in enumerate(batch.views):
            assert torch.equal(view, torch.cat([part.views[number] for part in parts]))
    for loader in (whole, *halves, *quarters):
        loader.close()


def test_batches_are_not_overwritten(photographs):
    """Held batches keep their values while the loader works on, also when used on another stream at once."""
    loader = make_loader(spec(photographs, RANDOM, "cuda:0"))
    held = [next(loader) for _ in range(12)]
    sums = [batch.views[0].double().sum() for batch in held]
    for _ in range(12):
        next(loader)
    again = make_loader(spec(photographs, RANDOM, "cuda:0"))
    for batch, total in zip(held, sums, strict=True):
        assert batch.views[0].double().sum() == total
        assert torch.equal(next(again).views[0], batch.views[0])
    loader.close()
    again.close()


def test_a_run_trains_resumes_and_is_judged(digits, tmp_path):
    words = ["pretrain", "mae_tiny", "--data.shards", str(digits), "--device", "cuda", "--no-track", "--log-every", "1"]
    words += ["--steps", "40", "--save-every", "10", "--precision", "bf16"]
    assert main([*words, "--run-dir", str(tmp_path / "whole")]) == 0
    assert main([*words, "--run-dir", str(tmp_path / "parts"), "--stop-after", "17"]) == 0
    assert main([*words, "--run-dir", str(tmp_path / "parts"), "--resume", "auto"]) == 0
    lines = {
        run: [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "parts")
    }
    for one, other in zip(lines["whole"], lines["parts"], strict=True):
        assert one["sample_digest"] == other["sample_digest"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    assert lines["whole"][-1]["loss"] < 0.8 * lines["whole"][0]["loss"]
    assert main(["eval", "knn", str(tmp_path / "whole"), str(digits)]) == 0


@pytest.mark.parametrize("method", ["mae", "moco", "dino", "vae"])
def test_a_cuda_graph_trains_as_the_passes_without_it(method):
    """Batch norm, drop path and drawn noise among them; steps 3, 5, 6 and 7 are the graph's alone."""
    states = []
    for graphed in (False, True):
        run = replace(
            make_run(f"{method}_tiny"), cuda_graph=graphed, device="cuda", precision="fp32", deterministic=True
        )
        run = replace(run, data=replace(run.data, batch_size=16, accumulate=1))
        torch.manual_seed(0)
        objective, world = (
            fresh_objective(run, torch.arange(1000)),
            World(rank=0, size=1, device=torch.device("cuda:0")),
        )
        settings = engine_settings(run, 1)
        engine = make_engine(
            "ddp", objective, world, lambda module, run=run: make_optimizer(module, run.optim), settings
        )
        for step in range(7):
            drawn = torch.Generator("cuda").manual_seed(step)
            views = [
                torch.randn(16, 3, view.size, view.size, device="cuda", generator=drawn)
                for view in objective.views().views
            ]
            ids = torch.arange(16) + 16 * step
            batch = Batch(views=views, ids=ids, epochs=ids * 0, labels=ids.cuda() % 3, seed=0)
            loss = engine.forward(MicroBatch(batch=batch, seed=step))["loss"]
            engine.backward(loss)
            _, taken = engine.step(1e-3, loss.detach().isfinite())
            objective.after_step(0.1 * step, taken)
        states.append({name: tensor.double().cpu().clone() for name, tensor in engine.save_tensors().items()})
    set_arithmetic(torch.device("cuda:0"))
    for name, tensor in states[0].items():
        assert (states[1][name] - tensor).norm() <= 1e-3 * tensor.norm() + 1e-6, name
