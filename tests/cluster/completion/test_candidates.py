"""What may stand where the cursor is."""

import pytest

from eyespot.cluster.completion.candidates import FILES, complete
from eyespot.cluster.completion.index import Index


@pytest.mark.parametrize(
    ("words", "some", "none"),
    [
        ("pre", ["pretrain\ttrain an encoder with a recipe"], ["plan"]),
        ("--v", ["--version"], ["--help"]),
        ("pretrain mae_", ["mae_tiny", "mae_vitb16_in1k"], ["simclr_tiny", FILES]),
        ("pretrain --config run.toml ", ["simclr_tiny"], []),
        ("pretrain mae_tiny ", [FILES], ["mae_tiny"]),
        ("pretrain mae_tiny --obj", ["--objective.mask-ratio"], ["--optim.lr"]),
        ("pretrain simclr_tiny --obj", ["--objective.temperature"], ["--objective.mask-ratio"]),
        ("pretrain mae_tiny --p", ["--print-config", "--precision"], []),
        ("pretrain mae_tiny --device ", ["auto", "cpu", "cuda"], [FILES]),
        ("pretrain mae_tiny --device = c", ["cpu", "cuda"], ["auto", FILES]),
        ("pretrain mae_tiny --device =", ["auto"], [FILES]),
        ("pretrain mae_tiny --device=c", ["--device=cpu"], ["cpu"]),
        ("pretrain mae_tiny --data.shards ", [FILES], ["mae_tiny"]),
        ("pretrain mae_tiny --compile --engine d", ["ddp", "deepspeed"], ["fsdp"]),
        ("pretrain my_package.recipes : mine --eng", ["--engine"], []),
        ("plan mae_tiny --g", ["--gpus", "--gpu"], ["--nodes"]),
        ("plan mae", ["mae_tiny"], []),
        ("doctor ", ["mae_tiny", FILES], []),
        ("doctor --", ["--ranks"], ["--optim.lr"]),
        ("doctor mae_tiny --", ["--ranks", "--optim.lr"], ["--print-config"]),
        ("eval ", ["linear", "finetune", "zero-shot", "compare"], ["mae_tiny"]),
        ("eval linear ", [FILES], ["knn"]),
        ("eval linear --s", ["--seed", "--shots"], ["--steps"]),
        ("eval finetune runs/first data/d --", ["--scratch", "--optim.lr"], []),
        ("eval finetune runs/first data/d --recipe fine", ["finetune_tiny"], ["mae_tiny"]),
        ("shards ", ["pack", "verify", "show"], [FILES]),
        ("shards pack ", [FILES], []),
        ("shards pack --re", ["--resize"], ["--gpus"]),
        ("launch --contain", ["--container", "--container-runtime"], []),
        ("launch --container-runtime p", ["pyxis"], ["apptainer"]),
        ("launch --nodes 2 -- ", ["pretrain"], ["eval"]),
        ("launch --nodes 2 -- pretrain mae_t", ["mae_tiny"], []),
        ("launch --nodes 2 -- pretrain mae_tiny --obj", ["--objective.mask-ratio"], ["--nodes"]),
        ("recipes ma", ["mae"], ["mae_tiny"]),
        ("completion ", ["bash", "zsh", "fish"], [FILES]),
        ("report ", [FILES], []),
        ("status --", ["--watch", "--json"], []),
        ("dance ", [FILES], []),
    ],
)
def test_what_may_follow(index, words, some, none):
    found = complete(words.split(" "), index)
    assert set(some) <= set(found) and not set(none) & set(found)


def test_a_config_file_says_which_recipe(index, tmp_path):
    (tmp_path / "run.toml").write_text('recipe = "mae_tiny"\n')
    (tmp_path / "bad.toml").write_bytes(b"\xff = [")
    words = ["pretrain", "--config", str(tmp_path / "run.toml"), "--config", str(tmp_path / "bad.toml"), "--obj"]
    assert "--objective.mask-ratio" in complete(words, index)


def test_without_an_index_commands_and_recipes_are_known():
    assert "mae_tiny" in complete(["pretrain", "mae"], Index())
    assert complete(["pretrain", "mae_tiny", "--opt"], Index()) == []
    assert complete(["eval", "li"], Index()) == []
