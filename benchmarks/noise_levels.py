"""What diffusion's encoder knows of the classes, by block and by how much noise it is shown (DDAE, Xiang 2023).

Takes the newest run of diffusion in WORK/runs, as benchmarks/zoo.py leaves one, and runs ``eyespot eval layers`` on
WORK/probe, without noise and with that of several times t (10,000 training images to fit, the 10,000 test images to
report; arXiv:2303.09769, figure 3, has the same of U-Nets). Block, kind of features and t are chosen on the tenth of
the training images that the probes do not learn from; the encoder with random weights chooses for itself, alike. What
is there already is not asked again.

    python benchmarks/noise_levels.py --work /tmp/zoo
"""

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any

from results import RESULTS, write_results
from zoo import eyespot

from eyespot.eval.results.tables import block_metric
from eyespot.pretrain.run_record import RunRecord

NAME = "noise_levels"
NONE = 0
"""In place of a time: no noise."""
ROLES = ("encoder", "random", "pixels")


def results_of(run_dir: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """By whose they are (``ROLES``) and time, the results of "layers"."""
    found = [json.loads(path.read_text()) for path in sorted((run_dir / "eval").glob("layers_*.json"))]
    return {(each["role"], each["origin"].get("noise_level", NONE)): each for each in found}


def ask(run_dir: Path, probe: Path, times: list[int]) -> None:
    """Judges the run at those times at which it has not been."""
    known = results_of(run_dir)
    for time in times:
        noise = ["--noise-level", str(time)] if time != NONE else []
        if any((role, time) not in known for role in ROLES):
            eyespot("eval", "layers", str(run_dir), str(probe), "--seed", "0", *noise)


def command_of(run_dir: Path) -> str:
    """How the run was begun, places aside."""
    words = RunRecord.read(RunRecord.path(run_dir), needed=("argv",)).argv or []
    text = shlex.join(["eyespot", *map(str, words[1:])])
    return re.sub(r" --(data\.shards|run-dir|resume) \S+| --no-track", "", text)


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def best(found: dict[tuple[str, int], dict[str, Any]], role: str) -> tuple[int, dict[str, Any]]:
    """Time and result that were right most often about held-out training images; of equals that with less noise."""
    there = {time: result for (who, time), result in sorted(found.items()) if who == role}
    return max(there.items(), key=lambda pair: pair[1]["validation"])


def kept(role: str, time: int, result: dict[str, Any]) -> dict[str, Any]:
    """What the table is of."""
    numbers = {name: result[name] for name in ("accuracy", "interval", "validation", "settings", "metrics")}
    return {"role": role, "time": time, **numbers}


def chosen(result: dict[str, Any]) -> str:
    """Block and kind of features."""
    settings = result["settings"]
    return f"block {settings['block'].split()[0]}, {settings['features']}" if "block" in settings else "pixels"


def rows_of(found: dict[tuple[str, int], dict[str, Any]], times: list[int]) -> list[tuple[str, ...]]:
    """A row for each block, and those of what was chosen at each time."""
    trained, twin = ([found[role, time] for time in times] for role in ("encoder", "random"))
    num_blocks = int(trained[0]["settings"]["block"].split()[-1])
    rows = []
    for block in range(1, num_blocks + 1):
        cells = (percent(result["metrics"][block_metric(block, "mean")]) for result in trained)
        rows.append((f"block {block}, mean", *cells))
    for name, results in (("chosen", trained), ("random weights, chosen alike", twin)):
        rows.append((name, *(f"{percent(each['accuracy'])} ({chosen(each)})" for each in results)))
    rows.append(("held-out accuracy of the chosen", *(percent(each["validation"]) for each in trained)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of shards and runs, as zoo.py leaves it")
    parser.add_argument("--times", type=int, nargs="+", default=[NONE, 3, 11, 30, 100, 300], help="t; 0 = no noise")
    options = parser.parse_args()
    times = sorted(set(options.times))
    run_dir = max((options.work / "runs").glob("diffusion-[0-9]*"), key=lambda path: path.stat().st_mtime)
    ask(run_dir, options.work / "probe", times)
    found = {key: result for key, result in results_of(run_dir).items() if key[1] in times}
    lines = []
    for role in ROLES:
        time, result = best(found, role)
        low, high = result["interval"]
        lines.append(
            f"- {result['name']}: {percent(result['accuracy'])} % on test ({percent(low)} to {percent(high)}),"
            f" by {chosen(result)}, {f't = {time}' if time != NONE else 'no noise'}"
        )
    write_results(
        NAME,
        title="CIFAR-10, linear probes of diffusion's encoder by block and noise: accuracy on test in %, about +-1.0",
        header=("", *(f"t = {time}" if time != NONE else "no noise" for time in times)),
        rows=rows_of(found, times),
        details={
            "command": command_of(run_dir),
            "results": [kept(*key, found[key]) for key in sorted(found)],
        },
    )
    text = ["", "Block, kind of features and t chosen on held-out training images:", "", *lines, ""]
    text += [f"The run is of `{command_of(run_dir)}`.", ""]
    with (RESULTS / f"{NAME}.md").open("a") as file:
        file.write("\n".join(text))


if __name__ == "__main__":
    main()
