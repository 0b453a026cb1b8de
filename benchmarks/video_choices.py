"""What the gates of video methods were chosen by: training clips of falling digits that were held out.

Of the 800 training clips the first 640 are learned from, and the last 160 asked about; the test videos are not looked
at. TCN's loss in its tiny recipe, and the steps of VideoMAE's gate, are what came out best here.

    python benchmarks/video_choices.py --work /tmp/videos
"""

import argparse
from pathlib import Path

import numpy as np
from gates import Case, eyespot, figure, interval
from results import write_results
from video.shards import DIGITS, pack
from video_gates import GATES

from eyespot.data_pipeline.shards.shard_folder import ShardFolder

NUM_TRAIN, LEARNED = 800, 640
CHOICES = {
    "tcn": {"triplet": "--objective.loss triplet --steps 200", "n_pair": "--objective.loss n_pair --steps 200"},
    "video_mae": {f"{steps} steps": f"--steps {steps}" for steps in (300, 600)},
}
"""By method: what may be chosen, in the words of the command line."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
    parser.add_argument("--seeds", type=int, default=2, help="trainings per choice")
    options = parser.parse_args()
    pack(DIGITS, options.work, options.work)
    shards = ShardFolder.find(options.work / DIGITS)
    ids = options.work / "learned.txt"
    ids.write_text("".join(f"{sample}\n" for sample in range(LEARNED)))
    rows, details = [], {}
    for method, choices in CHOICES.items():
        for name, flags in choices.items():
            found = []
            for seed in range(options.seeds):
                run_dir = options.work / "choices" / f"{method}-{name.replace(' ', '-')}-{seed}"
                words = [f"{method}_tiny", "--data.shards", str(options.work / DIGITS), "--data.ids", str(ids)]
                words += ["--run-dir", str(run_dir), "--resume", "auto", "--no-track", "--seed", str(seed)]
                eyespot("pretrain", *words, *flags.split())
                case = Case(run_dir=run_dir, learned=shards, unseen=shards, ids=np.arange(LEARNED, NUM_TRAIN))
                found.append(GATES[method].ask(case))
            means = {who: np.mean([each[who] for each in found], axis=0) for who in found[0]}
            others = [f"{who} {values.mean():.3f}" for who, values in means.items() if who != "trained"]
            each = [round(float(seed["trained"].mean()), 4) for seed in found]
            rows.append((method, name, GATES[method].asked, figure(interval(means["trained"])), ", ".join(others)))
            details[f"{method}, {name}"] = {"flags": flags, "seeds": each}
            write_results(
                "video_choices",
                title=f"Chosen by {NUM_TRAIN - LEARNED} held-out training clips of falling digits, 95 % intervals",
                header=("method", "choice", "asked", "trained", "beside it"),
                rows=rows,
                details={"choices": details},
            )


if __name__ == "__main__":
    main()
