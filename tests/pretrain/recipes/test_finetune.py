import pytest

from eyespot.pretrain.recipe_lookup import make_run


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


def test_few_labels_of_imagenet_have_simclrs_numbers():
    """Chen et al. 2020, appendix B.5: rate 0.05 * 4096 / 256, 60 epochs of 1 %."""
    run = make_run("finetune_simclr_in1k")
    optim, view = run.optim, run.objective.view
    assert (optim.name, optim.nesterov, optim.momentum, optim.lr) == ("sgd", True, 0.9, 0.05)
    assert (optim.weight_decay, optim.warmup_steps, run.data.batch_size) == (0.0, 0, 4096)
    assert run.steps == pytest.approx(60 * 12_812 / 4096, abs=1) and run.encoder.name == "resnet50"
    assert (view.scale, view.flip, view.jitter) == ((0.08, 1.0), 0.5, (0.0, 0.0, 0.0, 0.0))
    assert not run.objective.frozen and run.objective.mix.smoothing == 0.0
