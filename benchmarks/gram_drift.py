"""How far the similarities of patches drift late in a run of DINOv3, with Gram anchoring and without.

Trains a small ViT on CIFAR-10 for half of its steps, saves, and goes on twice from that checkpoint, with the same
batches: with the Gram loss, and with its weight at 0. The Gram teacher is the slow teacher of a quarter of the run. Of
each checkpoint of the slow teacher, on test images that nobody trained on: the root mean square difference of the
cosines of an image's patches from those at that quarter; the mean cosine of two patches; and for what class tokens
know, 20 nearest neighbours among training images.

    python benchmarks/gram_drift.py --data ../shared/data --work /tmp/gram
"""

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from results import write_results
from torch import Tensor, nn

from eyespot.cluster.cli import main as command
from eyespot.data_pipeline.augment.views import ViewSpec, center_view
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_selection
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.eval.protocols.knn import vote
from eyespot.pretrain.checkpoints.folders import complete, folder_of, newest
from eyespot.pretrain.loop.initial_weights import trained_encoder
from eyespot.pretrain.losses.self_distillation import gram_distance, patch_similarities
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.run_json import load_run

NAME = "gram_drift"
SIZE, NUM_TEST, NUM_BANK, K = 32, 500, 2000, 20
TAKEN, FROM, CHECKPOINTS = 0.25, 0.5, 8
ARMS = {"with": 2.0, "without": 0.0}
"""By name the weight of the Gram loss in the second half."""


def eyespot(*words: str) -> None:
    """Runs a command in this process."""
    print("eyespot", *words, flush=True)
    if command([*words]):
        raise SystemExit(f"eyespot {words[0]} has failed")


def settings(steps: int, batch: int, seed: int) -> list[str]:
    """Of both arms, places aside."""
    words = (
        f"dinov3_vitt_cifar10 --steps {steps} --data.batch-size {batch} --seed {seed} --encoder.name test_vit"
        f" --encoder.patch-size 4 --optim.lr 8e-3 --optim.min-lr 8e-3 --optim.warmup-steps {steps // 20}"
        " --objective.box 1"
        " --objective.num-small 1 --objective.out-dim 256 --objective.momentum 0.95 --objective.final-momentum 0.95"
        f" --objective.frozen 0.01 --objective.gram-taken {TAKEN} --objective.gram-from {FROM} --precision fp32"
        f" --save-every {steps // CHECKPOINTS} --keep-checkpoints {CHECKPOINTS} --picture-every 0 --no-track"
    )
    return words.split()


def train(work: Path, steps: int, batch: int, seed: int) -> dict[str, Path]:
    """Both arms' run folders; what is there already is not trained again."""
    half, shards = round(FROM * steps), ["--data.shards", str(work / "shards")]
    runs = {arm: work / f"{arm}-{seed}" for arm in ARMS}
    common = ["pretrain", *settings(steps, batch, seed), *shards]
    if not folder_of(runs["with"], half).is_dir():
        eyespot(*common, "--run-dir", str(runs["with"]), "--stop-after", str(half), "--resume", "auto")
    for arm, weight in ARMS.items():
        if folder_of(runs[arm], steps).is_dir():
            continue
        goes_on = arm == "with" or newest(runs[arm]) is not None
        resume = "auto" if goes_on else str(folder_of(runs["with"], half))
        weights = ["--objective.gram-weight", str(weight)]
        eyespot(*common, *weights, "--run-dir", str(runs[arm]), "--resume", resume)
    return runs


def images_of(shards: Path, count: int) -> tuple[Float[Tensor, "n 3 h w"], Tensor]:
    """So many images, spread evenly, whole, and their labels."""
    folder = find_shards(shards)
    ids = torch.arange(count) * folder.manifest.num_samples // count
    stats = folder.manifest.image_stats
    views = ViewSpec(views=(center_view(SIZE),), mean=stats.mean, std=stats.std)
    with closing(make_selection(LoaderSpec(shards=folder, views=views, batch_size=250), ids.numpy())) as batches:
        found = [(batch.views[0].clone(), batch.labels.clone()) for batch in batches]
    images, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return images, labels


@torch.inference_mode()
def tokens_of(encoder: nn.Module, images: Tensor) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n p d"]]:
    """Class tokens, and patch tokens."""
    found = [last_tokens(encoder.eval(), part)[-1] for part in images.split(250)]
    classes = torch.cat([each.cls for each in found if each.cls is not None])
    return classes, torch.cat([each.patches.flatten(2).transpose(1, 2) for each in found])


def looked_at(
    run_dir: Path, reference: Tensor, data: dict[str, tuple[Tensor, Tensor]], *, last: int
) -> list[dict[str, Any]]:
    """Of each checkpoint from a quarter of the run on, what is in the tables; neighbours of the last one only."""
    _, run = load_run(run_dir)
    rows: list[dict[str, Any]] = []
    (test, labels), (bank, bank_labels) = data["test"], data["bank"]
    for folder in complete(run_dir):
        step = int(folder.name.rpartition("-")[2])
        if step < round(TAKEN * run.steps):
            continue
        encoder = trained_encoder(run, folder)
        classes, patches = tokens_of(encoder, test)
        count = patches.shape[1]
        cosines = (patch_similarities(patches).sum((1, 2)) - count) / (count * (count - 1))
        drift = gram_distance(patches, reference).mean().sqrt()
        row: dict[str, Any] = {"step": step, "drift": drift.item(), "cosine": cosines.mean().item()}
        if step == last:
            rows_of_bank = nn.functional.normalize(tokens_of(encoder, bank)[0])
            voted = vote(nn.functional.normalize(classes), rows_of_bank, bank_labels, num_classes=10, ks=(K,))[K]
            row["neighbours"] = (voted == labels).float().mean().item()
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar10-images.tar.gz")
    parser.add_argument("--work", type=Path, required=True, help="folder of shards and runs")
    parser.add_argument("--steps", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    if not (options.work / "shards").is_dir():
        eyespot("shards", "pack", str(options.data / "cifar10-images.tar.gz"), str(options.work / "shards"))
    data = {
        "test": images_of(options.work / "shards" / "test", NUM_TEST),
        "bank": images_of(options.work / "shards" / "train", NUM_BANK),
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        runs = train(options.work, options.steps, options.batch, seed)
        _, run = load_run(runs["with"])
        first = trained_encoder(run, folder_of(runs["with"], round(TAKEN * options.steps)))
        reference = tokens_of(first, data["test"][0])[1]
        for arm, run_dir in runs.items():
            found[f"{arm}, seed {seed}"] = looked_at(run_dir, reference, data, last=options.steps)
    steps = sorted({row["step"] for rows in found.values() for row in rows})
    table = []
    for name, rows in found.items():
        drifts = {row["step"]: f"{row['drift']:.3f}" for row in rows}
        cells = [drifts.get(step, "") for step in steps]
        table.append([name, *cells, f"{rows[-1]['cosine']:.3f}", f"{100 * rows[-1]['neighbours']:.1f}"])
    write_results(
        NAME,
        title="DINOv3 on CIFAR-10, with Gram anchoring in the second half and without: drift of patch similarities",
        header=("Gram loss", *(f"step {step}" for step in steps), "mean cosine at the end", f"{K}-NN at the end, %"),
        rows=table,
        details={"settings": " ".join(settings(options.steps, options.batch, 0)), "checkpoints": found},
    )


if __name__ == "__main__":
    main()
