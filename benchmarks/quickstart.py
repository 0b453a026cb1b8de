"""The quickstart with several seeds: its encoder against random weights and raw pixels, and what it costs.

Packs the photographs that come with the package, trains `simclr_r10_caltech10` with each seed, and judges it by the
linear probe and by nearest neighbours on the 599 photographs that it has never seen, the same ones for every seed. What
is there already is not trained again. CPU seconds are of the command and all its processes.

    OMP_NUM_THREADS=1 python benchmarks/quickstart.py --work /tmp/quickstart --seeds 3
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from results import write_results
from zoo import eyespot

RECIPE = "simclr_r10_caltech10"
ROLES = {"encoder": "trained", "random": "random weights", "pixels": "raw pixels"}


def measure(seed: int, work: Path) -> dict[str, Any]:
    """Trains and judges one seed: [accuracy, low, high] of each protocol and role, and CPU seconds."""
    run_dir, kept = work / f"seed-{seed}", work / f"seed-{seed}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    words = ["--data.shards", str(work / "caltech10"), "--run-dir", str(run_dir), "--no-track", "--resume", "auto"]
    row: dict[str, Any] = {
        "seed": seed,
        "cpu_seconds": {"pretrain": eyespot("pretrain", RECIPE, *words, "--seed", str(seed))},
    }
    for protocol in ("linear", "knn"):
        used = eyespot("eval", protocol, str(run_dir), str(work / "caltech10"), "--seed", str(seed))
        row["cpu_seconds"][protocol] = used
        for path in (run_dir / "eval").glob(f"{protocol}_*.json"):
            result = json.loads(path.read_text())
            row[f"{protocol}_{result['role']}"] = [result["accuracy"], *result["interval"]]
    row["cpu_seconds"]["report"] = eyespot("report", str(run_dir))
    kept.write_text(json.dumps(row))
    return row


def apart(row: dict[str, Any], role: str) -> bool:
    """Whether the linear probe's interval lies above that of a baseline."""
    return row["linear_encoder"][1] > row[f"linear_{role}"][2]


def shown(row: dict[str, Any]) -> tuple[str, ...]:
    """A seed's row for people."""
    cells = []
    for key in (f"{protocol}_{role}" for protocol in ("linear", "knn") for role in ROLES):
        value, low, high = (100 * number for number in row[key])
        cells.append(f"{value:.1f} ({low:.1f} to {high:.1f})")
    verdict = "yes" if apart(row, "random") and apart(row, "pixels") else "NO"
    return str(row["seed"]), *cells, verdict, f"{sum(row['cpu_seconds'].values()):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if not (options.work / "caltech10").exists():
        eyespot("shards", "pack", "caltech10", str(options.work / "caltech10"))
    rows = [measure(seed, options.work) for seed in range(options.seeds)]
    names = [f"{protocol}, {name}" for protocol in ("linear", "kNN") for name in ROLES.values()]
    average = [f"{100 * mean(row[f'{p}_{r}'][0] for row in rows):.1f}" for p in ("linear", "knn") for r in ROLES]
    write_results(
        "quickstart",
        title="The quickstart: accuracy in % on 599 photographs of ten classes, 95 % intervals",
        header=("seed", *names, "intervals apart", "CPU seconds"),
        rows=[*map(shown, rows), ("mean", *average, "", f"{mean(sum(r['cpu_seconds'].values()) for r in rows):.0f}")],
        details={"recipe": RECIPE, "seeds": rows},
    )


if __name__ == "__main__":
    main()
