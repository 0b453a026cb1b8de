"""Which alterations SimCLR learns by, alone and in pairs: its figure 5 (Chen et al. 2020, arXiv:2002.05709) in small.

One branch shows the image as it is, the other the same image altered in one way or in two; a small encoder learns for a
short time from CIFAR-10, and the linear probe of benchmarks/zoo.py judges it. What differs from the paper: its images
are of many sizes and so are cropped first, in both branches; CIFAR-10's are of one, so the branch without alterations
shows them whole. Steps come in the order that views have (crop, color, blur, Sobel, rotate, noise, cutout), so a pair
is the same in either order, and half of the table is enough. How strong each is is ours, where the paper says nothing.

It is written after each training and goes on where it was broken off; what was not trained is "not run".

    PYTHONPATH=benchmarks python benchmarks/simclr_matrix.py --work /tmp/zoo --only crop
"""

import argparse
import hashlib
import json
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

from results import RESULTS, write_results
from zoo import eyespot

from eyespot.pretrain.recipes.gate import RESNET, SHORT

NAME = "simclr_matrix"
STEPS = {
    "crop": "--objective.second.scale 0.08 1.0 --objective.second.ratio 0.75 1.3333 --objective.second.flip 0.5",
    "cutout": "--objective.second.cutout 1.0",
    "color": "--objective.second.jitter 0.8 0.8 0.8 0.2 --objective.second.grayscale 0.2",
    "sobel": "--objective.second.sobel 0.5",
    "noise": "--objective.second.noise 1.0",
    "blur": "--objective.second.blur 0.5",
    "rotate": "--objective.second.turn 0.75",
}
"""In the paper's order, the flags that make each of them."""
TRAINING = f"--steps 200 --data.batch-size 128 {RESNET} {SHORT}"
RECIPE = "one_branch:one_branch"
PAIRS = list(combinations_with_replacement(STEPS, 2))


def flags_of(pair: tuple[str, str]) -> str:
    """What is trained, places aside."""
    return " ".join([TRAINING, *(STEPS[step] for step in dict.fromkeys(pair))])


def measure(pair: tuple[str, str], work: Path) -> dict[str, Any]:
    """Trains and judges: accuracies of the linear probe with their intervals, of the encoder and of random weights."""
    flags = flags_of(pair)
    run_dir = work / "runs" / f"matrix-{'-'.join(pair)}-{hashlib.sha256(flags.encode()).hexdigest()[:6]}"
    places = ["--data.shards", str(work / "shards"), "--run-dir", str(run_dir), "--resume", "auto", "--no-track"]
    seconds = eyespot("pretrain", RECIPE, *places, *flags.split(), "--seed", "0")
    eyespot("eval", "linear", str(run_dir), str(work / "probe"), "--seed", "0", "--trust-recipe", "one_branch")
    found: dict[str, Any] = {"flags": flags, "cpu_seconds": round(seconds, 1)}
    for path in (run_dir / "eval").glob("linear_*.json"):
        result = json.loads(path.read_text())
        found[result["role"]] = [result["accuracy"], *result["interval"]]
    return found


def shown(known: dict[str, Any], one: str, other: str) -> str:
    """A cell: accuracy and its gain over random weights."""
    found = known.get(f"{one}, {other}") or known.get(f"{other}, {one}")
    if found is None:
        return "not run"
    accuracy, random = (100 * found[role][0] for role in ("encoder", "random"))
    return f"{accuracy:.1f} ({accuracy - random:+.1f})"


def write(known: dict[str, Any]) -> None:
    """The table; the lower half repeats the upper one."""
    write_results(
        NAME,
        title="SimCLR on CIFAR-10, one branch altered: linear probe, accuracy in % (points above random weights)",
        header=("", *STEPS),
        rows=[(one, *(shown(known, one, other) for other in STEPS)) for one in STEPS],
        details={"cells": known},
    )
    widest = max(cell["encoder"][2] - cell["encoder"][1] for cell in known.values()) / 2
    minutes = sum(cell["cpu_seconds"] for cell in known.values()) / 60
    text = [
        "",
        f"95 % intervals of an accuracy reach {100 * widest:.1f} points to each side. One training each,"
        f" {len(known)} of {len(PAIRS)}, {minutes:.0f} CPU minutes in all.",
        "",
        f"Each is `eyespot pretrain {RECIPE} {TRAINING}`, with PYTHONPATH=benchmarks, and:",
        "",
        *(f"- {name}: `{flags}`" for name, flags in STEPS.items()),
        "",
    ]
    with (RESULTS / f"{NAME}.md").open("a") as file:
        file.write("\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of shards, as benchmarks/zoo.py leaves it")
    parser.add_argument(
        "--only", nargs="+", choices=STEPS, default=[*STEPS], help="pairs with one of these; all single"
    )
    options = parser.parse_args()
    before = RESULTS / f"{NAME}.json"
    known = json.loads(before.read_text())["cells"] if before.is_file() else {}
    known = {key: cell for key, cell in known.items() if cell["flags"] == flags_of(tuple(key.split(", ")))}
    wanted = [pair for pair in PAIRS if pair[0] == pair[1] or {*pair} & {*options.only}]
    for pair in sorted(wanted, key=lambda pair: pair[0] != pair[1]):
        if ", ".join(pair) not in known:
            known[", ".join(pair)] = measure(pair, options.work)
            write(known)


if __name__ == "__main__":
    main()
