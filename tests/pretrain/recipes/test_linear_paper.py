import pytest

from eyespot.pretrain.recipe_lookup import make_run


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
