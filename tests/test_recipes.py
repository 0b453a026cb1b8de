"""Every recipe builds; the papers' numbers are what the papers say; every tiny one trains, through the real command."""

import json
import math

import pytest
import torch

from eyespot.cluster.cli import main
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import make_encoder
from eyespot.pretrain.recipe_lookup import make_run, recipe_names

RECIPES = sorted(recipe_names())


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_builds_and_says_what_it_is(recipe):
    run = make_run(recipe)
    assert recipe_names()[recipe].__doc__
    assert run.optim.warmup_steps < run.steps
    with torch.device("meta"):  # shapes without memory: ViT-L in a moment
        encoder = make_encoder(run.encoder)
    assert encoder.num_features > 0


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.endswith("_tiny")])
def test_a_tiny_recipe_trains(recipe, digits, tmp_path):
    places = ["--data.shards", str(digits), "--run-dir", str(tmp_path / "run")]
    short = ["--steps", "6", "--log-every", "1", "--data.batch-size", "32", "--optim.warmup-steps", "1", "--no-track"]
    assert main(["pretrain", recipe, *places, *short]) == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 6
    assert all(math.isfinite(loss) for loss in losses)  # test_contract.py has what learns; MoCo's queue must fill first


@pytest.mark.parametrize(("recipe", "dim", "depth"), [("mae_vitb16_in1k", 768, 12), ("mae_vitl16_in1k", 1024, 24)])
def test_mae_on_imagenet_has_the_papers_numbers(recipe, dim, depth):
    """He et al. 2021, table 8."""
    run = make_run(recipe)
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(1.5e-4 * 4096 / 256)
    assert (run.optim.betas, run.optim.weight_decay, run.optim.clip) == ((0.9, 0.95), 0.05, None)
    assert run.optim.warmup_steps == pytest.approx(40 * 1_281_167 / 4096, abs=1)
    assert run.steps == pytest.approx(800 * 1_281_167 / 4096, abs=1)
    objective = run.objective
    assert (objective.mask_ratio, objective.normalize_targets, objective.crop_scale) == (0.75, True, (0.2, 1.0))
    assert (objective.decoder_dim, objective.decoder_depth, objective.decoder_heads) == (512, 8, 16)
    with torch.device("meta"):
        encoder = make_encoder(run.encoder)
    assert (encoder.embed_dim, len(encoder.blocks), encoder.patch_embed.patch_size) == (dim, depth, (16, 16))


@pytest.mark.parametrize(
    ("recipe", "head", "temperature", "decay_at"),
    [("moco_v1_r50_in1k", "linear", 0.07, (0.6, 0.8)), ("moco_v2_r50_in1k", "mlp", 0.2, ())],
)
def test_moco_on_imagenet_has_the_papers_numbers(recipe, head, temperature, decay_at):
    """He et al. 2019, section 3.3 (rate, decay, 200 epochs, a tenth at 120 and 160); Chen et al. 2020, section 3."""
    run = make_run(recipe)
    optim, objective = run.optim, run.objective
    assert (optim.name, optim.momentum, optim.weight_decay, optim.decay_vectors) == ("sgd", 0.9, 1e-4, True)
    assert (run.data.batch_size, optim.warmup_steps, optim.decay_at) == (256, 0, decay_at)
    assert effective_rate(optim.lr, run.data.batch_size) == pytest.approx(0.03)
    assert run.steps == pytest.approx(200 * 1_281_167 / 256, abs=1)
    assert (objective.head, objective.out_dim, objective.temperature) == (head, 128, temperature)
    assert (objective.queue_size, objective.momentum) == (65536, 0.999)
    view = objective.view
    assert (view.scale, view.grayscale, view.flip, view.solarize) == ((0.2, 1.0), 0.2, 0.5, 0)
    if head == "linear":
        assert (view.jitter, view.jitter_probability, view.blur) == ((0.4, 0.4, 0.4, 0.4), 1.0, 0)
    else:
        assert (view.jitter, view.jitter_probability, view.blur) == ((0.4, 0.4, 0.4, 0.1), 0.8, 0.5)


@pytest.mark.parametrize("recipe", ["moco_v3_vits16_in1k", "moco_v3_vitb16_in1k", "moco_v3_r50_in1k"])
def test_moco_v3_on_imagenet_has_the_papers_numbers(recipe):
    """Chen et al. 2021, section 5, and the authors' CONFIG.md: 300 epochs at batch 4096."""
    run = make_run(recipe)
    optim, objective, vit = run.optim, run.objective, "vit" in recipe
    assert optim.name == ("adamw" if vit else "lars")
    assert (optim.weight_decay, optim.decay_vectors) == ((0.1, True) if vit else (1e-6, False))
    assert (optim.betas == (0.9, 0.999)) == vit
    assert effective_rate(optim.lr, run.data.batch_size) == pytest.approx((1.5e-4 if vit else 0.3) * 4096 / 256)
    assert optim.warmup_steps == pytest.approx((40 if vit else 10) * 1_281_167 / 4096, abs=1)
    assert run.steps == pytest.approx(300 * 1_281_167 / 4096, abs=1)
    assert (objective.hidden_dim, objective.out_dim, objective.momentum) == (4096, 256, 0.99)
    assert objective.temperature == (0.2 if vit else 1.0)
    heads = (objective.projector_layers, objective.predictor_norm, objective.freeze_patches)
    assert heads == ((3, True, True) if vit else (2, False, False))
    for view, blur, solarize in ((objective.first, 1.0, 0.0), (objective.second, 0.1, 0.2)):
        assert view.scale == ((0.08, 1.0) if vit else (0.2, 1.0))
        assert (view.jitter, view.jitter_probability, view.grayscale) == ((0.4, 0.4, 0.2, 0.1), 0.8, 0.2)
        assert (view.blur, view.solarize) == (blur, solarize)


def test_simclr_on_imagenet_has_the_papers_numbers():
    """Chen et al. 2020, section 2.2 and appendix A."""
    run = make_run("simclr_r50_in1k")
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(4.8)
    assert (run.optim.name, run.optim.weight_decay, run.data.batch_size) == ("lars", 1e-6, 4096)
    assert run.optim.warmup_steps == pytest.approx(10 * 1_281_167 / 4096, abs=1)
    assert run.steps == pytest.approx(100 * 1_281_167 / 4096, abs=1)
    objective, view = run.objective, run.objective.view
    assert (objective.temperature, objective.hidden_dim, objective.out_dim) == (0.1, 2048, 128)
    assert (objective.decoupled, objective.tau_plus, objective.beta) == (False, 0.0, 0.0)
    assert (view.scale, view.flip, view.jitter, view.jitter_probability) == (
        (0.08, 1.0),
        0.5,
        (0.8, 0.8, 0.8, 0.2),
        0.8,
    )
    assert (view.grayscale, view.blur, view.blur_sigma, view.solarize) == (0.2, 0.5, (0.1, 2.0), 0.0)


def test_simclr_on_cifar_has_the_papers_numbers():
    """Chen et al. 2020, appendix B.9: colours half as strong, no blur."""
    run = make_run("simclr_r18_cifar10")
    assert (run.optim.lr, run.optim.weight_decay, run.data.batch_size) == (1.0, 1e-6, 1024)
    assert run.steps == pytest.approx(1000 * 50_000 / 1024, abs=1)
    assert (run.objective.temperature, run.objective.view.jitter, run.objective.view.blur) == (
        0.5,
        (0.4, 0.4, 0.4, 0.1),
        0,
    )


def test_supcon_on_imagenet_has_the_papers_numbers():
    """Khosla et al. 2020, section 4; rate, warm-up and decay from the authors' code."""
    run = make_run("supcon_r50_in1k")
    assert (run.optim.name, run.data.batch_size, run.objective.temperature) == ("lars", 6144, 0.1)
    assert (run.objective.hidden_dim, run.objective.out_dim) == (2048, 128)
    assert run.steps == pytest.approx(350 * 1_281_167 / 6144, abs=1)
    assert (run.optim.lr, run.optim.weight_decay) == (0.3, 1e-4)


def test_byol_on_imagenet_has_the_papers_numbers():
    """Grill et al. 2020, section 3.3 and table 6."""
    run = make_run("byol_r50_in1k")
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(3.2)
    assert (run.optim.name, run.optim.weight_decay, run.data.batch_size) == ("lars", 1.5e-6, 4096)
    assert run.optim.warmup_steps == pytest.approx(10 * 1_281_167 / 4096, abs=1)
    assert run.steps == pytest.approx(1000 * 1_281_167 / 4096, abs=1)
    assert (run.objective.momentum, run.objective.hidden_dim, run.objective.out_dim) == (0.996, 4096, 256)
    for view in (run.objective.first, run.objective.second):
        assert (view.scale, view.jitter, view.jitter_probability) == ((0.08, 1.0), (0.4, 0.4, 0.2, 0.1), 0.8)
        assert (view.flip, view.grayscale, view.blur_sigma) == (0.5, 0.2, (0.1, 2.0))
    assert (run.objective.first.blur, run.objective.first.solarize) == (1.0, 0.0)
    assert (run.objective.second.blur, run.objective.second.solarize) == (0.1, 0.2)


def test_fine_tuning_on_imagenet_has_the_papers_numbers():
    """He et al. 2021, table 9, and for ViT-B the authors' FINETUNE.md."""
    run = make_run("finetune_mae_vitb16_in1k")
    optim, objective = run.optim, run.objective
    assert (optim.name, optim.lr, optim.weight_decay, optim.betas) == ("adamw", 5e-4, 0.05, (0.9, 0.999))
    assert (optim.layer_decay, run.data.batch_size, run.encoder.drop_path) == (0.65, 1024, 0.1)
    assert run.steps == pytest.approx(100 * 1_281_167 / 1024, abs=1)
    assert optim.warmup_steps == pytest.approx(5 * 1_281_167 / 1024, abs=1)
    assert (objective.mix.mixup, objective.mix.cutmix, objective.mix.smoothing) == (0.8, 1.0, 0.1)
    view = objective.view
    assert (view.rand_augment, view.rand_augment_std, view.erase, view.scale) == (9.0, 0.5, 0.25, (0.08, 1.0))
    assert (objective.pool, objective.frozen, objective.head) == ("mean", False, "linear")


@pytest.mark.parametrize(
    ("preset", "name", "lr", "batch", "epochs", "warmup", "head"),
    [
        ("mae", "lars", 0.1, 16384, 90, 10, "batchnorm"),
        ("moco", "sgd", 30.0, 256, 100, 0, "linear"),
        ("simclr", "sgd", 0.1, 4096, 90, 0, "linear"),
    ],
)
def test_linear_probes_have_the_papers_numbers(preset, name, lr, batch, epochs, warmup, head):
    """He et al. 2021, table 10; He et al. 2019, section 4.1; Chen et al. 2020, appendix B.6."""
    run = make_run(f"linear_paper_{preset}")
    optim = run.optim
    assert (optim.name, optim.lr, optim.weight_decay, optim.momentum, run.data.batch_size) == (name, lr, 0, 0.9, batch)
    assert run.steps == pytest.approx(epochs * 1_281_167 / batch, abs=1)
    assert optim.warmup_steps == pytest.approx(warmup * 1_281_167 / batch, abs=1)
    assert (run.objective.head, run.objective.frozen) == (head, True)
    assert (optim.decay_at, optim.nesterov) == ((0.6, 0.8) if preset == "moco" else (), preset == "simclr")
