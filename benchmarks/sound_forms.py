"""To embed or not to embed: what a common space of images and sounds costs and gives, by audio_visual's three forms.

Each form learns from the same pairs of digits and spoken digits, in as many steps, and is asked about 300 pairs that it
never saw (``members/spoken.py``). Correspondence has no common space. So to retrieve with it is tried in three ways: by
its head, which must look at every pair of an image and a sound; by its features as they are, which have the same width;
and by those after a canonical correlation analysis of the pairs that were learned from, as of other forms' features.
"Yes or no" is the papers' own question, whether a sound is an image's own: a tenth of the false pairs are of one digit,
so about 0.95 can be reached.

    python benchmarks/sound_forms.py --work /tmp/members
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gates import PASSES, Case, Found, eyespot, figure, interval
from members.spoken import CHANGES, SPOKEN, looks, pack
from results import write_results
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.networks.encoders import features

FORMS = ("contrastive", "distance", "correspondence")
STEPS = 300
QUESTIONS = ("image to sound", "sound to image", "own sound before another", "yes or no", "image tower", "sound tower")
RIDGE, COMPONENTS = 1e-2, 32
"""Of the canonical correlations: share of the mean variance that is added to each, and how many are kept."""
HEADER = ("form", "network", "compared by", *QUESTIONS)

Rows = dict[str, np.ndarray]
Compared = dict[str, np.ndarray]
"""By what pairs are compared by: how well each image (rows) and each sound (columns) go together."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = os.environ.get("EYESPOT_TEST_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(given), help="folder that holds the recordings' archive")
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
    parser.add_argument("--seeds", type=int, default=3, help="trainings per form")
    options = parser.parse_args()
    pack(SPOKEN, options.work, options.data)
    found: dict[tuple[str, str, str], list[Found]] = {}
    for seed in range(options.seeds):
        for form in FORMS:
            for who, answers in measure(form, seed, options.work).items():
                for compared, answer in answers.items():
                    found.setdefault((form, who, compared), []).append(answer)
        write(found)


def measure(form: str, seed: int, work: Path) -> dict[str, dict[str, Found]]:
    """Trains one form: by network and what pairs are compared by, of each question a number for each test sample."""
    run_dir = work / "runs" / f"audio_visual-{form}-{seed}-{STEPS}"
    words = ["audio_visual_tiny", "--data.shards", str(work / SPOKEN), "--run-dir", str(run_dir), "--no-track"]
    words += ["--steps", str(STEPS), "--seed", str(seed), "--objective.form", form, "--resume", "auto"]
    eyespot("pretrain", *words, *CHANGES.split())
    learned, unseen = ShardFolder.find(work / SPOKEN, "train"), ShardFolder.find(work / SPOKEN, "test")
    case = Case(run_dir=run_dir, learned=learned, unseen=unseen)
    return {who: answers(case, objective) for who, objective in case.objectives.items()}


@torch.inference_mode()
def answers(case: Case, objective: Any) -> dict[str, Found]:
    """By what pairs are compared by."""
    train, test = rows(case, objective, case.learned), rows(case, objective, case.unseen)
    probes = {f"{kind} tower": probe(train, test, kind) for kind in ("image", "sound")}
    if objective.chance is not None:
        told = [objective.told(batch).numpy() for seed in range(1, 1 + PASSES) for batch in case.batches(seed)]
        probes["yes or no"] = np.concatenate(told).reshape(PASSES, -1).mean(0)
    found: dict[str, Found] = {}
    for compared, alike in compare(objective, train, test).items():
        found[compared] = retrieved(alike, test["label"]) | probes
    return found


def rows(case: Case, objective: Any, shards: ShardFolder) -> Rows:
    """Of all samples: features of both towers, labels, and where the form has one the place in its space."""
    parts: dict[str, list[torch.Tensor]] = {}
    for batch in looks(case, shards):
        images, sounds = batch.views
        made = {"image": objective.encode(images), "sound": features(objective.sound, sounds), "label": batch.labels}
        if objective.joint is not None:
            made |= {
                f"{kind} place": objective.embed_joint(kind, view)
                for kind, view in zip(("image", "sound"), batch.views, strict=True)
            }
        for name, values in made.items():
            parts.setdefault(name, []).append(values)
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def compare(objective: Any, train: Rows, test: Rows) -> Compared:
    """Each way that there is."""
    one, other = canonical(train, test)
    aligned = {"features, canonical correlation": units(one) @ units(other).T}
    if objective.joint is not None:
        return {"cosine in its space": test["image place"] @ test["sound place"].T} | aligned
    images, sounds = torch.from_numpy(test["image"]), torch.from_numpy(test["sound"])
    by_head = [objective.answer(image.expand(len(sounds), -1), sounds).diff(dim=1)[:, 0] for image in images]
    return {
        "its head, pair by pair": torch.stack(by_head).numpy(),
        "features as they are": units(test["image"]) @ units(test["sound"]).T,
    } | aligned


def canonical(train: Rows, test: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Images and sounds of the test in the directions that go together most among the pairs that were learned from."""
    whitened: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for kind in ("image", "sound"):
        middle = train[kind].mean(0)
        centred = (train[kind] - middle).astype(np.float64)
        scatter = centred.T @ centred / len(centred)
        squares, directions = np.linalg.eigh(scatter + RIDGE * np.trace(scatter) / len(scatter) * np.eye(len(scatter)))
        inverse = directions / np.sqrt(squares) @ directions.T
        whitened[kind] = centred @ inverse, (test[kind] - middle) @ inverse
    left, strength, right = np.linalg.svd(whitened["image"][0].T @ whitened["sound"][0] / len(train["image"]))
    strength = strength[:COMPONENTS]
    images, sounds = whitened["image"][1] @ left[:, :COMPONENTS], whitened["sound"][1] @ right.T[:, :COMPONENTS]
    return images * strength, sounds * strength


def units(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def retrieved(alike: np.ndarray, labels: np.ndarray) -> Found:
    """Whether the best one is of the same digit, both ways; the share of other digits' sounds behind an image's own."""
    same, every = labels[:, None] == labels, np.arange(len(labels))
    return {
        "image to sound": same[every, alike.argmax(1)].astype(float),
        "sound to image": same[alike.argmax(0), every].astype(float),
        "own sound before another": ((np.diag(alike)[:, None] > alike) & ~same).sum(1) / (~same).sum(1),
    }


def probe(train: Rows, test: Rows, kind: str) -> np.ndarray:
    """Whether a logistic regression on a tower's features names each test sample's digit."""
    scaler = StandardScaler().fit(train[kind])
    fitted = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(train[kind]), train["label"])
    return (fitted.predict(scaler.transform(test[kind])) == test["label"]).astype(float)


def write(found: dict[tuple[str, str, str], list[Found]]) -> None:
    """Means over seeds with intervals over samples; what a form cannot be asked stays empty."""
    rows, details, count = [], [], len(next(iter(found.values())))
    for (form, who, compared), seeds in found.items():
        told = {name: np.array([each[name] for each in seeds]) for name in QUESTIONS if name in seeds[0]}
        figures = {name: interval(values.mean(0)) for name, values in told.items()}
        rows.append((form, who, compared, *(figure(figures[name]) if name in figures else "" for name in QUESTIONS)))
        each = {name: values.mean(1).round(4).tolist() for name, values in told.items()}
        details.append({"form": form, "network": who, "compared": compared, "figures": figures, "seeds": each})
    rows.append(("chance", "", "", "0.100", "0.100", "0.500", "0.500", "0.100", "0.100"))
    write_results(
        "sound_forms",
        title=f"To embed or not to embed: digits and who says them, {STEPS} steps, seeds: {count}, 300 unseen pairs",
        header=HEADER,
        rows=rows,
        details={"answers": details},
    )


if __name__ == "__main__":
    main()
