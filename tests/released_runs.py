"""Runs as training leaves them, judged or not, and releases of them: small, and made without training."""

import importlib.metadata
import json
import shutil
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers
import torch
from packaging.requirements import Requirement
from result_files import some_result, write

from eyespot.eval.release.layout import write_sums
from eyespot.eval.release.write import release
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.config import Run
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import to_values

CHECKPOINT = "step-00000012"
MEAN, STD = [0.3, 0.31, 0.32], [0.37, 0.36, 0.35]


def small_run(folder: Path, recipe: str = "mae_tiny", encoder: EncoderConfig | None = None) -> Run:
    """A recipe's run around timm's smallest ViT or another encoder."""
    run = make_run(recipe)
    run.encoder = encoder or EncoderConfig(name="test_vit", image_size=16, patch_size=4)
    run.run_dir, run.data.shards, run.steps = folder, str(folder / "no-shards"), 12
    return run


def two_towered_run(folder: Path, tokenizer: str = "", recipe: str = "clip_tiny") -> Run:
    """CLIP's or SigLIP's, very small; where nothing else is said, with a tokenizer of a few words."""
    run = small_run(folder, recipe)
    run.objective.text_width, run.objective.text_layers, run.objective.out_dim = 8, 2, 6
    if not tokenizer:
        words = {"<pad>": 7, "<s>": 1, "</s>": 2, "a": 3, "cat": 4, "dog": 5, "<unk>": 6, "photo": 8, "of": 9}
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        special = [("<s>", 1), ("</s>", 2)]
        made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
        made.enable_padding(pad_id=7, pad_token="<pad>")
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = str(folder / "words.json")
        made.save(tokenizer)
    run.objective.text = replace(run.objective.text, tokenizer=tokenizer)
    return run


def write_run(folder: Path, *, seed: int = 1, judged: bool = True, run: Run | None = None, **record: Any) -> Path:
    """A run folder with one checkpoint of random weights and, if judged, results of it and of its random twin."""
    run = run or small_run(folder)
    recipe = f"{type(run.objective).__module__.rpartition('.')[2]}_tiny"
    torch.manual_seed(seed)
    objective = fresh_objective(run)
    for module in objective.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
    tensors = {f"model.{name}": tensor for name, tensor in objective.state_dict().items()}
    meta = checkpoint.Meta(step=12, loader={"samples_consumed": 3072}, world_size=2, run_key="key", engine="ddp")
    folder.mkdir(parents=True, exist_ok=True)
    CheckpointWriter(folder, keep=2).save(tensors, meta, wait=True)
    said = {
        "recipe": recipe,
        "run": to_values(run),
        "run_key": "key",
        "git_commit": "c0ffee",
        "git_diff_sha256": "",
    }
    said |= {"manifest_sha256": "d" * 64, "normalization": {"mean": MEAN, "std": STD}, "eyespot": "0.1.0"}
    said |= {
        "hardware": {"cpu": "An Engine", "cores": 2, "gpus": []},
        "versions": {"python": "3.11.9", "torch": "2.14.1"},
    }
    (folder / "run.json").write_text(json.dumps(said | record))
    if judged:
        origin = {"run": str(folder), "checkpoint": CHECKPOINT, "step": 12, "encoder": run.encoder.name}
        write(folder, "knn_digits.json", some_result(origin=origin))
        twin = some_result(key="b2", role="random", name="random weights", origin={"seed": 0}, accuracy=0.5)
        write(folder, "knn_digits_random.json", twin)
    return folder


def write_release(out: Path, *, seed: int = 1, run: Run | None = None, **options: Any) -> Path:
    """A release of such a run."""
    return release(
        write_run(out.with_name(f"{out.name}-run"), seed=seed, run=run), out, license="apache-2.0", **options
    )


def copy_of(folder: Path, into: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, into))


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change_json(path: Path, *keys: str, value: Any) -> None:
    """Sets one value of a JSON file, and SHA256SUMS to what the folder then holds: a careful attacker's change."""
    found = values = json.loads(path.read_text())
    for key in keys[:-1]:
        values = values[key]
    values[keys[-1]] = value
    path.write_text(json.dumps(found))
    write_sums(path.parent)


def bare_python(folder: Path, *packages: str) -> Path:
    """The Python of a fresh virtual environment that holds these packages and what they need, linked, and no other."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    waiting, done = list(packages), set[str]()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        package = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(package.locate_file(top))))
        needed = [Requirement(line) for line in package.requires or []]
        waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return folder / "bin" / "python"
