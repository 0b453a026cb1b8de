"""DINOv3: DINOv2's loss, which has its own reference, and Gram anchoring against a slow one in float64; its stages."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from step_passes import take_passes

from eyespot.cluster.cli import main
from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.checkpoints.reader import read_module
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, check_engine, make_engine
from eyespot.pretrain.loop.initial_weights import first_objective
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.dinov2 import DINOv2
from eyespot.pretrain.objectives.dinov3 import DINOv3, Stage
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.recipes.dinov3 import dinov3_vitl16_gram, dinov3_vitl16_in1k

COUNT, SIZE, SIDE, OUT = 6, 16, 4, 7
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
SMALL = {"num_small": 2, "hidden_dim": 8, "bottleneck_dim": 6, "out_dim": OUT, "frozen": 0.0, "warmup": 0.2}
VIEWS = {"first": RandomView(), "second": RandomView(), "small": RandomView(size=8)}
ANCHORED = {"gram_taken": 0.0, "gram_from": 0.5, "gram_refreshes": 0}
ROTATED = {"img_size": SIZE, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}


def make_dinov3(*, rotated: bool = False, progress: float = 0.9, **changes) -> DINOv3:
    torch.manual_seed(0)
    if rotated:
        encoder = timm.create_model("vit_small_patch16_dinov3", **ROTATED)
    else:
        encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    settings = {**SMALL, **VIEWS, **ANCHORED, "box": 2.0 if rotated else 1.0} | changes
    objective = DINOv3.Config(**settings).build(encoder, SIZE).double()
    with torch.no_grad():
        for tensor in objective.parameters():  # student and both teachers differ
            tensor += 0.05 * torch.randn_like(tensor)
    objective.progress.fill_(progress)
    return objective


def make_batch(objective: DINOv3, ids: torch.Tensor | None = None) -> Batch:
    ids = torch.arange(COUNT) if ids is None else ids
    generator = torch.Generator().manual_seed(0)
    sizes = [view.size for view in objective.views().views]
    views = [torch.randn(COUNT, 3, size, size, generator=generator, dtype=torch.float64)[ids] for size in sizes]
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def cosines(rows: torch.Tensor) -> list[list[torch.Tensor]]:
    units = [row / row.norm() for row in rows]
    return [[one @ other for other in units] for one in units]


def slow_gram(objective: DINOv3, batch: Batch) -> torch.Tensor:
    """Image by image, pair of patches by pair of patches; the Gram teacher sees the views as they came."""
    smaller, count = objective.shrunk(batch), len(batch)
    tokens = objective.seen_by_student(smaller, objective.masks(smaller)).patches
    errors = []
    for v in range(2):
        for b in range(count):
            image = batch.views[v][b : b + 1]
            side = image.shape[-1] // 4
            with torch.no_grad():
                seen = objective.gram_teacher.forward_features(image)[0, -side * side :]
                maps = seen.T.view(1, -1, side, side)
                goal = F.interpolate(maps, (SIDE, SIDE), mode="bicubic")[0].flatten(1).T if side > SIDE else seen
            ours, theirs = cosines(tokens[v, b]), cosines(goal)
            errors += [
                (p - q) ** 2 for us, them in zip(ours, theirs, strict=True) for p, q in zip(us, them, strict=True)
            ]
    return torch.stack(errors).mean()


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_loss_and_gradients_are_those_of_dinov2_and_of_gram(scale):
    objective = make_dinov3(gram_scale=scale, gram_weight=3.0)
    batch = make_batch(objective)
    assert batch.views[0].shape[-1] == SIZE * scale
    plain = DINOv2.Config(**SMALL, **VIEWS).build(
        make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4)), SIZE
    )
    plain.double().load_state_dict({k: t for k, t in objective.state_dict().items() if not k.startswith("gram_")})
    fast, slow = objective(batch), slow_gram(objective, batch)
    assert fast["gram_loss"].item() == pytest.approx(slow.item(), rel=1e-6) and slow > 1e-4
    theirs = plain(objective.shrunk(batch))
    for name in ("class_loss", "patch_loss", "koleo_loss"):
        assert fast[name].item() == pytest.approx(theirs[name].item(), rel=1e-12), name
    assert fast["loss"].item() == pytest.approx((theirs["loss"] + 3 * slow).item(), rel=1e-8)
    names = [name for name, parameter in objective.named_parameters() if parameter.requires_grad]
    ours = torch.autograd.grad(fast["loss"], [objective.get_parameter(name) for name in names])
    of_plain = torch.autograd.grad(theirs["loss"], [plain.get_parameter(name) for name in names])
    of_gram = torch.autograd.grad(slow, [objective.get_parameter(name) for name in names], allow_unused=True)
    for name, own, one, other in zip(names, ours, of_plain, of_gram, strict=True):
        assert torch.allclose(own, one if other is None else one + 3 * other, rtol=1e-4, atol=1e-6), name
    before = make_dinov3(gram_scale=scale, progress=0.4)
    assert "gram_loss" not in before(make_batch(before)), "it counts from its stage on"


def test_micro_batches_equal_one_batch_with_boxes_and_gram():
    found = []
    for parts in (1, 3):
        objective = make_dinov3(rotated=True)
        settings = Settings(accumulate=parts, clip=None, precision="fp32")
        engine = make_engine("ddp", objective, ALONE, lambda m: torch.optim.SGD(m.parameters()), settings)
        shares = torch.arange(COUNT).chunk(parts)
        losses = take_passes(engine, [(make_batch(objective, own), place) for place, own in enumerate(shares)])
        gradients = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
        found.append((sum(float(each["loss"]) for each in losses) / parts, gradients))
    (loss, gradients), (other, others) = found
    assert loss == pytest.approx(other, rel=1e-10)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], rtol=1e-7, atol=1e-10), name


def test_boxes_belong_to_views_of_samples_and_to_the_student():
    objective = make_dinov3(rotated=True)
    ids = torch.arange(1000)
    batch = Batch(views=[torch.zeros(1000, 3, 4, 4)] * 4, ids=ids, epochs=ids * 0, labels=ids, seed=0)
    found = objective.stretches(batch)
    assert found.shape == (4, 1000) and found.min() >= 0.5 and found.max() <= 2
    assert found.log2().mean().abs() < 0.05 and (found < 1).double().mean() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(objective.stretches(replace(batch, ids=ids[7:9], epochs=ids[:2] * 0)), found[:, 7:9])
    batch = make_batch(objective)
    smaller = objective.shrunk(batch)
    whole = objective.masks(smaller)
    seen = objective.seen_by_student(smaller, replace(whole, hidden=whole.hidden & False))
    objective.config.box = 1.0
    still = objective.seen_by_student(smaller, replace(whole, hidden=whole.hidden & False))
    assert not torch.allclose(seen.patches, still.patches, rtol=0, atol=1e-6)
    of_teacher = objective.seen_by_teacher(smaller)
    objective.config.box = 2.0
    assert torch.equal(objective.seen_by_teacher(smaller).patches, of_teacher.patches)


def test_the_gram_teacher_is_the_slow_teacher_at_the_times_that_are_said():
    objective = make_dinov3(gram_taken=0.2, gram_from=0.5, gram_every=0.2, gram_refreshes=2, progress=0.0)
    stages = [objective.stage_at(step / 10) for step in range(11)]
    assert [stage.copies for stage in stages] == [0, 0, 1, 1, 1, 1, 1, 2, 2, 3, 3]
    assert [stage.anchored for stage in stages] == [False] * 5 + [True] * 6
    steps = []
    for step in range(1, 11):
        with torch.no_grad():
            objective.student.cls_token += 1
        before = objective.gram_teacher.cls_token.clone()
        objective.after_step(step / 10, taken=torch.tensor(step != 7))  # a skipped step changes nothing
        if not torch.equal(objective.gram_teacher.cls_token, before):
            steps.append(step)
            assert all(map(torch.equal, objective.gram_teacher.parameters(), objective.encoder.parameters()))
    assert steps == [2, 8, 9]


@pytest.mark.parametrize("share", [1 / 3, 0.7, 0.9])
def test_a_run_that_goes_on_is_in_the_same_stage(share):
    """The checkpoint has its progress in single precision."""
    objective = make_dinov3(gram_from=share, gram_taken=share, progress=0.0).float()
    objective.after_step(share)
    other = make_dinov3(gram_from=share, gram_taken=share, progress=0.0).float()
    other.load_state_dict(objective.state_dict())
    assert objective.stage_at(objective.done) == other.stage_at(other.done) == Stage(anchored=True, copies=1)


def test_each_step_has_its_size_and_all_its_micro_batches_the_same():
    sizes = {"large_sizes": (16, 24, 24), "small_sizes": (8, 8, 12), "gram_scale": 1.5}
    objective = make_dinov3(rotated=True, progress=0.0, **sizes)
    assert [view.size for view in objective.views().views] == [36, 36, 12, 12]
    seen = set()
    for step in range(1, 20):
        shapes = {
            tuple(view.shape[-1] for view in objective.shrunk(make_batch(objective, ids)).views)
            for ids in torch.arange(COUNT).chunk(3)
        }
        assert len(shapes) == 1
        seen |= shapes
        objective.after_step(step / 20)
    assert seen == {(16, 16, 8, 8), (24, 24, 8, 8), (24, 24, 12, 12)}
    found = objective(make_batch(objective))
    assert found["loss"].isfinite() and found["gram_loss"] > 0


def stored(run_dir, step):
    return read_module(run_dir / "checkpoints" / f"step-{step:08d}")


def test_a_run_that_stops_in_the_gram_stage_goes_on_to_the_bit(digits, tmp_path):
    words = ["pretrain", "dinov3_tiny", "--data.shards", str(digits), "--steps", "8", "--data.batch-size", "16"]
    words += ["--no-track", "--picture-every", "0", "--log-every", "1", "--optim.warmup-steps", "1"]
    words += ["--objective.gram-taken", "0.25", "--objective.gram-from", "0.5", "--objective.gram-every", "0.25"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*words, "--run-dir", str(whole)]) == 0
    assert main([*words, "--run-dir", str(parts), "--stop-after", "5"]) == 0
    middle = stored(parts, 5)
    assert main([*words, "--run-dir", str(parts), "--resume", "auto"]) == 0
    ours, theirs = stored(whole, 8), stored(parts, 8)
    assert ours.keys() == theirs.keys() and any(name.startswith("gram_teacher.") for name in ours)
    assert [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])] == []
    assert not torch.equal(middle["gram_teacher.cls_token"], middle["encoder.cls_token"]), "of an earlier step"
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert ["gram_loss" in line for line in lines] == [False] * 4 + [True] * 4

    high = ["--run-dir", str(tmp_path / "high"), "--resume", str(whole / "checkpoints" / "step-00000008")]
    high += [
        "--steps",
        "10",
        "--objective.gram-taken",
        "0",
        "--objective.gram-from",
        "0",
        "--objective.gram-refreshes",
        "0",
    ]
    high += ["--objective.large-sizes", "16", "32", "--objective.small-sizes", "8", "16"]
    assert main([*words, *high]) == 0
    after = stored(tmp_path / "high", 10)
    assert torch.equal(after["gram_teacher.cls_token"], ours["gram_teacher.cls_token"])
    assert not torch.equal(after["student.cls_token"], ours["student.cls_token"])


def test_the_gram_teacher_may_have_somebodys_weights(tmp_path):
    run = make_run("dinov3_tiny")
    torch.manual_seed(9)
    given = make_encoder(run.encoder).state_dict()
    release = tmp_path / "release"
    release.mkdir()
    for path in (tmp_path / "file.safetensors", release / "model.safetensors"):
        save_file(given, path)
        run.objective.gram_weights = tmp_path / "file.safetensors" if path.parent == tmp_path else release
        objective = first_objective(run, torch.arange(10))
        assert all(torch.equal(tensor, given[name]) for name, tensor in objective.gram_teacher.state_dict().items())
        assert not torch.equal(objective.encoder.cls_token, given["cls_token"])
        assert objective.stage_at(0.15).copies == 0 and objective.stage_at(0.3).copies == 1
    assert load_file(release / "model.safetensors").keys() == given.keys()


def test_a_run_and_its_checkpoint_are_gram_weights_and_what_is_none_is_refused(digits, tmp_path, capsys):
    words = ["pretrain", "dinov3_tiny", "--data.shards", str(digits), "--steps", "2", "--data.batch-size", "16"]
    words += ["--no-track", "--picture-every", "0", "--optim.warmup-steps", "1"]
    assert main([*words, "--run-dir", str(tmp_path / "first"), "--optim.ema", "0.9"]) == 0
    wanted = stored(tmp_path / "first", 2)
    run = make_run("dinov3_tiny")
    newest = tmp_path / "first" / "checkpoints" / "step-00000002"
    for place in (tmp_path / "first", newest, Path(f"{tmp_path / 'first'}@ema"), Path(f"{newest}@ema")):
        run.objective.gram_weights = place
        teacher = first_objective(run, torch.arange(10)).gram_teacher
        part = "averaged" if place.name.endswith("@ema") else "encoder"
        assert all(torch.equal(tensor, wanted[f"{part}.{name}"]) for name, tensor in teacher.state_dict().items())
    capsys.readouterr()
    there = ["--run-dir", str(tmp_path / "second"), "--objective.gram-weights", str(tmp_path / "none")]
    assert main([*words, *there]) == 2
    said = capsys.readouterr().err
    assert "objective.gram_weights" in said and "cannot be read (No such file or directory)" in said
    assert not torch.equal(wanted["averaged.cls_token"], wanted["encoder.cls_token"])
    assert not (tmp_path / "second").exists()
    there[-1] = f"{tmp_path / 'first'}@none"
    assert main([*words, *there]) == 2
    said = capsys.readouterr().err
    assert "objective.gram_weights" in said and "students.none.*" in said and "leave out @none" in said
    assert "Traceback" not in said and "start.prefix" not in said and not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gram_taken": 0.6}, r"objective.gram_taken 0.6: must not come after gram_from 0.5"),
        ({"gram_from": 1.0, "gram_weights": Path("x")}, r"objective.gram_weights x: at gram_from 1 nobody asks"),
        ({"large_sizes": (16, 24), "small_sizes": (8,)}, r"objective.small_sizes \(8,\): must be as many"),
        ({"large_sizes": (18,)}, r"objective.large_sizes 18: is no multiple of .* 4 pixels; try 16"),
        ({"large_sizes": (0,)}, r"objective.large_sizes 0: is no multiple of .* try 4"),
        ({"box": 2.0}, r"objective.box 2.0: VisionTransformer's positions .* set it to 1"),
        ({"first": RandomView(size=32)}, r"objective.first.size 32: follows from encoder.image_size"),
    ],
    ids=["taken", "weights", "pairs", "patches", "none", "box", "first"],
)
def test_wrong_settings_are_named(changes, said):
    with pytest.raises(UserError, match=said):
        make_dinov3(**changes)


def test_stages_are_no_cuda_graph():
    on_gpu = World(rank=0, size=1, device=torch.device("cuda"))
    with pytest.raises(UserError, match="cuda_graph True: what DINOv3 computes changes in the course of this run"):
        check_engine("ddp", make_dinov3(), on_gpu, Settings(cuda_graph=True), "adamw")
    assert make_dinov3().in_stages and not make_dinov3(gram_from=1.0, gram_taken=0.0).in_stages


def test_the_authors_numbers():
    run = dinov3_vitl16_in1k()
    config, optim = run.objective, run.optim
    assert (run.data.batch_size, run.steps, optim.warmup_steps) == (2048, 100 * 1250, 10 * 1250)
    assert (config.num_small, config.small.size, config.out_dim, config.bottleneck_dim) == (8, 96, 65536, 256)
    assert (config.momentum, config.final_momentum, config.teacher_temperature) == (0.992, 1.0, (0.04, 0.07))
    assert (config.warmup, config.frozen, config.gram_from, config.box) == (0.3, 0.01, 1.0, 1.0)
    assert (optim.weight_decay, optim.final_weight_decay, optim.layer_decay, optim.clip) == (0.04, 0.4, 0.9, 3.0)
    assert optim.lr * run.data.batch_size / 256 == pytest.approx(1e-3 * 2**0.5)
    run = dinov3_vitl16_gram()
    config, optim = run.objective, run.optim
    assert (run.data.batch_size, run.encoder.image_size, config.small.size) == (4096, 256, 112)
    assert [round(share * run.steps) for share in (config.gram_from, config.gram_every)] == [1_000_000, 10_000]
    assert (config.gram_refreshes, config.gram_weight, config.gram_scale, config.box) == (3, 2.0, 2.0, 2.0)
    assert (config.momentum, config.final_momentum, config.koleo_weight) == (0.999, 0.999, 0.1)
    assert optim.lr == optim.min_lr and optim.lr * 4096 / 256 == pytest.approx(3e-5 * 2)
    assert config.warmup * run.steps == pytest.approx(100_000) and optim.final_weight_decay is None
