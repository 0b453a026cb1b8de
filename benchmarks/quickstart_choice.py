"""How the quickstart's method and encoder were chosen: several of about equal cost, on held-out training photographs.

The 599 test photographs of the quickstart play no part. Of the 1,401 others three tenths of each class are held out;
each candidate trains on the rest and is judged by the linear probe on what was held out.

    OMP_NUM_THREADS=1 python benchmarks/quickstart_choice.py --work /tmp/choice
"""

import argparse
import json
import tarfile
from pathlib import Path
from typing import Any

from results import write_results
from zoo import eyespot

from eyespot.data_pipeline.shards.sources import CALTECH10

SHARED = "--data.batch-size 128 --optim.name adamw --optim.lr 2e-3 --optim.weight-decay 0.05 --optim.warmup-steps 10"
SMALL = "--encoder.name resnet10t --encoder.image-size 48 --encoder.no-small-stem"
OWN = "--encoder.name {} --encoder.image-size 64 --encoder.no-small-stem"
CROPS = "--objective.view.scale 0.2 1.0"
CANDIDATES = {
    "SimCLR, resnet10t, 48 px, T 0.2": f"simclr_r18_cifar10 {SMALL} {CROPS} --objective.temperature 0.2 --steps 100",
    "SimCLR, resnet10t, 48 px, T 0.5": f"simclr_r18_cifar10 {SMALL} {CROPS} --objective.temperature 0.5 --steps 100",
    "BYOL, resnet10t, 48 px": f"byol_r18_cifar10 {SMALL} --steps 75",
    "MAE, test_vit with 8-pixel patches, 64 px": f"mae_vitt_cifar10 {OWN.format('test_vit')} --encoder.patch-size 8"
    " --steps 400",
}


def pack(work: Path) -> Path:
    """The training photographs alone, part of them held out."""
    shards = work / "shards"
    if not shards.exists():
        with tarfile.open(CALTECH10) as tar:
            members = [member for member in tar.getmembers() if member.name.startswith("train/")]
            tar.extractall(work / "photographs", members, filter="data")
        eyespot("shards", "pack", str(work / "photographs" / "train"), str(shards), "--holdout", "0.3")
    return shards


def measure(name: str, flags: str, shards: Path, work: Path) -> dict[str, Any]:
    """Trains one candidate, unless it is there already: its accuracies and CPU seconds."""
    run_dir = work / name.replace(" ", "-").replace(",", "")
    kept = work / f"{run_dir.name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    recipe, *words = f"{flags} {SHARED} --precision fp32 --picture-every 0 --no-track --resume auto".split()
    used = eyespot("pretrain", recipe, "--data.shards", str(shards), "--run-dir", str(run_dir), *words)
    row: dict[str, Any] = {"candidate": name, "settings": flags, "cpu_seconds": used}
    eyespot("eval", "linear", str(run_dir), str(shards))
    for path in (run_dir / "eval").glob("linear_*.json"):
        result = json.loads(path.read_text())
        row[result["role"]] = [result["accuracy"], *result["interval"]]
    kept.write_text(json.dumps(row))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
    options = parser.parse_args()
    shards = pack(options.work)
    rows = [measure(name, flags, shards, options.work) for name, flags in CANDIDATES.items()]
    cells = []
    for row in rows:
        shown = ["{:.1f} ({:.1f} to {:.1f})".format(*(100 * x for x in row[role])) for role in ("encoder", "random")]
        cells.append((row["candidate"], *shown, f"{row['cpu_seconds']:.0f}"))
    write_results(
        "quickstart_choice",
        title="Candidates for the quickstart: linear probe in % on held-out training photographs, 95 % intervals",
        header=("candidate", "trained", "random weights", "CPU seconds"),
        rows=cells,
        details={"candidates": rows},
    )


if __name__ == "__main__":
    main()
