"""eyespot eval finetune, linear-paper, attentive as a person calls them."""

import logging
import shutil
from pathlib import Path

import pytest
from PIL import Image

from eyespot.cluster.cli import main
from eyespot.data_pipeline.shards.pack import pack
from eyespot.eval.results.result import read_result


@pytest.fixture
def unlabeled(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.new("RGB", (20, 20), (60 * number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    pack(str(tmp_path / "photos"), tmp_path / "unlabeled", workers=1)
    return tmp_path / "unlabeled"


SHORT = "--recipe finetune_tiny --steps 2 --optim.warmup-steps 0 --no-track --device cpu"
PAPER = "--recipe linear_paper_tiny --steps 2 --optim.warmup-steps 0 --no-track --device cpu"


@pytest.fixture(autouse=True)
def own_log(monkeypatch):
    monkeypatch.setattr(logging.getLogger("eyespot"), "handlers", [])


def test_it_trains_judges_and_shows_the_same_again(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = f"eval finetune test_vit {digits} --no-pretrained --encoder.image-size 32 {SHORT}".split()
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "finetune on digits: 10 classes" in said and "random weights" in said
    (path,) = (tmp_path / "eval-test_vit").glob("*.json")
    assert path.with_suffix("").joinpath("metrics.jsonl").is_file()
    assert read_result(path).origin["trained"] == str(path.with_suffix("").relative_to(tmp_path))
    assert main(words) == 0
    assert capsys.readouterr().out == said
    assert main([*words, "--optim.lr", "7"]) == 2
    assert "holds a run with other settings: optim.lr is 7.0" in capsys.readouterr().err


def test_settings_may_stand_in_a_file(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = 'recipe = "finetune_tiny"\nsteps = 2\ntrack = false\ndevice = "cpu"\n[optim]\nwarmup_steps = {}\n'
    (tmp_path / "tune.toml").write_text(text.format(3))
    words = f"eval finetune test_vit {digits} --no-pretrained --encoder.image-size 32 --config tune.toml".split()
    assert main(words) == 2
    assert "tune.toml:6: optim.warmup_steps 3: the warm-up is longer" in capsys.readouterr().err
    (tmp_path / "tune.toml").write_text(text.format(0))
    assert main(words) == 0
    assert "finetune on digits: 10 classes" in capsys.readouterr().out
    (tmp_path / "tune.toml").write_text('recipe = "os:getcwd"')
    assert main(words) == 2
    assert "tune.toml:1: names the recipe 'os:getcwd', code that is not eyespot's" in capsys.readouterr().err


def test_a_preset_is_a_recipe(run_dir_copy, digits, capsys):
    words = ["eval", "linear-paper", str(run_dir_copy), str(digits), "--preset", "simclr", "--data.batch-size", "4096"]
    assert main(words) == 2
    assert "batch_size 4096: more than the 1,438 samples" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    words = f"pretrain mae_tiny --data.shards {digits} --run-dir {folder} --data.batch-size 32 --steps 1 --no-track"
    handlers = logging.getLogger("eyespot").handlers
    assert main([*words.split(), "--picture-every", "0", "--optim.warmup-steps", "0", "--device", "cpu"]) == 0
    logging.getLogger("eyespot").handlers = handlers
    return folder


@pytest.fixture
def run_dir_copy(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "first")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("finetune RUN UNLABELED", "none of 4 samples has a label"),
        ("finetune RUN DIGITS --recipe mae_tiny", "does not train on labels"),
        ("finetune RUN DIGITS --recipe finetune_tyni", "perhaps you meant finetune_tiny"),
        (f"finetune RUN DIGITS {SHORT} --encoder.image-size 18", "patch_size 4: does not divide"),
        (f"finetune RUN DIGITS {SHORT} --encoder.patch-size 8", "encoder.patch_size 8: model's is 4"),
        (f"finetune RUN DIGITS {SHORT} --objective.head cosine", "--objective.head"),
        (f"finetune RUN DIGITS {SHORT} --objective.num-classes 3", "objective.num_classes 3"),
        (f"attentive RUN DIGITS {SHORT} --objective.pool mean --objective.head attentive", "objective.pool 'mean'"),
        ("linear-paper RUN DIGITS --shots 1%", "--shots 1%: is of finetune and low-shot"),
        (f"finetune RUN DIGITS {SHORT} --shots many", "--shots many: neither a number of samples nor a share"),
        (f"finetune RUN DIGITS {SHORT} --shots 5 --data.batch-size 51", "data.batch_size 51: more than the 50 images"),
        (f"finetune RUN DIGITS {SHORT} --shots 1000", "--shots 1000: class 0 has "),
        (f"finetune RUN DIGITS {SHORT} --optim.stages 0.5 0.2", "optim.stages (0.5, 0.2): must be one or two rising"),
        (
            f"finetune RUN DIGITS {SHORT} --optim.stages 0.2 0.5 --optim.stage-blocks 9",
            "the encoder has 6 blocks; lower it",
        ),
        (f"linear-paper RUN DIGITS {PAPER} --optim.stages 0.5", "nothing of an encoder learns beside a head"),
        ("finetune RUN DIGITS --preset mae", "preset mae: names a recipe of linear-paper"),
        ("linear-paper RUN DIGITS --preset dino", "--preset"),
        ("linear-paper RUN DIGITS --sed 3", "--sed"),
        (f"linear-paper RUN DIGITS {PAPER} --engine deepspeed", "lars"),
        ("finetune RUN --recipe finetune_tiny", "write model and shards first"),
        ("finetune nothing_like_it DIGITS", "nothing_like_it"),
        ("finetune RUN /nowhere", "no such folder"),
        (f"finetune RUN DIGITS {SHORT} --out /dev/null/x", "/dev/null/x: cannot be written"),
    ],
)
def test_wrong_input_is_one_line(words, message, run_dir_copy, digits, request, capsys):
    if "UNLABELED" in words:
        words = words.replace("UNLABELED", str(request.getfixturevalue("unlabeled")))
    argv = ["eval", *words.replace("RUN", str(run_dir_copy)).replace("DIGITS", str(digits)).split()]
    assert main(argv) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("eyespot: ")]
    said = [line for line in said if "; hence " not in line]
    assert len(said) == 1 and message in said[0].lower()


def test_help_teaches(capsys):
    assert main(["eval", "linear-paper", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--preset mae|moco|simclr" in said and "--scratch" in said and "Exit codes" in said
