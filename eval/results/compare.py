"""Compares results sample by sample, and methods over their training seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.results.result import Result
from eyespot.eval.results.selection import Entry, entry_of, find_entries
from eyespot.eval.results.significance import (
    holm,
    mcnemar,
    mean_interval,
    paired_draws_interval,
    paired_interval,
    paired_t,
    sign_flip,
    welch,
    wilson,
)
from eyespot.pretrain.run_record import difference

LEVEL = 0.05
"""A difference counts as shown if its p after Holm's correction is at most this."""


@dataclass(kw_only=True, slots=True)
class Standing:
    """How one result did."""

    label: str
    metric: str
    key: str
    """Of the result."""
    num_correct: int | None
    """None where the accuracy is a mean over draws."""
    accuracy: float
    """0..1."""
    interval: tuple[float, float]
    """Of 95 %: Wilson's or, over draws and where images are more or less right, Student's t."""
    seed: int | None
    """Of the run."""


@dataclass(kw_only=True, slots=True)
class Difference:
    """How much better A is than B."""

    a: str
    b: str
    value: float
    """accuracy(A) - accuracy(B), -1..1."""
    interval: tuple[float, float] | None
    """Of 95 %, for this comparison alone; None where the spread over seeds is unknown."""
    p: float | None
    p_holm: float | None = None
    """``p`` corrected for the number of comparisons in the list."""
    only_a: int | None = None
    """Test samples that only A has right; None where seeds are compared, several draws, or means of images."""
    only_b: int | None = None
    test: str = ""
    """That gave ``p``."""

    def verdict(self, names: Mapping[str, str] | None = None) -> str:
        """The outcome in words; ``names`` are other ones for the labels."""
        if self.p_holm is None:
            return "unknown: too few seeds"
        if self.p_holm > LEVEL:
            return "no difference shown"
        better = self.a if self.value > 0 else self.b
        return f"{names[better] if names else better} is better"


@dataclass(kw_only=True, slots=True)
class Method:
    """Runs that differ in nothing but their seed."""

    label: str
    accuracies: dict[int, float]
    """By seed, in ascending order."""
    mean: float
    interval: tuple[float, float] | None
    """Student's t, 95 %: the mean over all seeds, on these test samples. None: one seed, their spread is unknown."""


@dataclass(kw_only=True, slots=True)
class Comparison:
    """All that `compare` found."""

    protocols: list[str]
    share: str
    """What the share of right answers is called: "accuracy", in retrieval "recall@1", of masks "image mIoU"."""
    graded: bool
    """Whether test samples are more or less right: then pairs are compared by Student's paired t."""
    data: str
    split: str
    num_test: int
    test_sha256: str
    standings: list[Standing]
    pairs: list[Difference]
    """Sample by sample: of these very weights."""
    methods: list[Method]
    """Empty where no two runs differ in their seed alone."""
    method_pairs: list[Difference]
    """Over seeds: of what was done, whichever the seed."""

    def values(self) -> dict[str, Any]:
        """For JSON."""
        words = {name: [pair.verdict() for pair in getattr(self, name)] for name in ("pairs", "method_pairs")}
        plain = asdict(self)
        for name, verdicts in words.items():
            plain[name] = [{**pair, "verdict": said} for pair, said in zip(plain[name], verdicts, strict=True)]
        return plain


def compare(
    places: Sequence[Path],
    *,
    protocol: str | None = None,
    baselines: bool = False,
    across_protocols: bool = False,
    paired_seeds: bool = False,
) -> Comparison:
    """Compares every pair of results on the same test samples: exact McNemar, bootstrap interval, Holm's correction.

    Runs that differ in nothing but their seed are one method. They are not compared with each other; methods are, with
    their seeds as the sample (Welch's test). Nor are two baselines compared with each other.

    Args:
        places: run folders, folders of results, or result files. Of a folder: its newest checkpoint's result.
        protocol: which results of a folder; None = the one that all places have.
        baselines: also random weights and raw pixels that lie beside; always so for a single place.
        across_protocols: results of different protocols may be compared.
        paired_seeds: compares methods seed by seed (paired t) instead: for seeds that make runs alike.

    Raises:
        UserError: there is nothing to compare, or not on the same samples.
    """
    entries = find_entries(
        places, protocol=protocol, baselines=baselines or len(places) == 1, across_protocols=across_protocols
    )
    if len(entries) < 2:
        raise UserError(f"compare {entries[0].label}: one result alone; name another one to compare it with")
    methods = _methods(entries)
    first, graded = entries[0].result, entries[0].result.graded()
    return Comparison(
        protocols=sorted({entry.result.protocol for entry in entries}),
        share=graded[0] if graded else first.share,
        graded=graded is not None,
        data=first.data,
        split=first.split,
        num_test=first.num_test,
        test_sha256=first.test_sha256,
        standings=[_standing(entry) for entry in entries],
        pairs=_corrected([_pair(a, b) for a, b in combinations(entries, 2) if _worth_comparing(a, b)]),
        methods=methods,
        method_pairs=_corrected([_method_pair(a, b, paired_seeds) for a, b in combinations(methods, 2)]),
    )


def paired_differences(result: Result, others: Sequence[Result]) -> list[Difference] | None:
    """A result against each of some others, sample by sample, with Holm's correction over all of them.

    None where they cannot be paired: they were tested on other samples, in another number of draws, or one does not say
    which samples were right.
    """
    try:
        first, *rest = [entry_of(each) for each in (result, *others)]
    except UserError:  # the file of one says of more or fewer samples than it had whether they were right
        return None
    if not first or not result.test_sha256:
        return None
    pairs = [_pair(first, other) for other in rest if other and _paired(first, other)]
    return _corrected(pairs) if len(pairs) == len(others) else None


def _paired(a: Entry, b: Entry) -> bool:
    same_samples = (a.result.test_sha256, a.right.shape) == (b.result.test_sha256, b.right.shape)
    return same_samples and a.right.dtype == b.right.dtype


def _standing(entry: Entry) -> Standing:
    num_draws, total = entry.right.shape
    if entry.result.graded():
        count, interval = None, mean_interval(entry.right[0].tolist()) if total > 1 else (0.0, 1.0)
    elif num_draws > 1:
        count, interval = None, entry.result.interval or (0.0, 1.0)
    else:
        count = int(entry.right.sum())
        interval = wilson(count, total)
    return Standing(
        label=entry.label,
        metric=entry.result.metric,
        key=entry.result.key,
        num_correct=count,
        accuracy=float(entry.right.mean()),
        interval=interval,
        seed=entry.seed,
    )


def _worth_comparing(a: Entry, b: Entry) -> bool:
    same_method = a.seed != b.seed and _alike(a, b)
    return not same_method and not (a.baseline and b.baseline)


def _alike(a: Entry, b: Entry) -> bool:
    """Whether two runs were trained with the same settings, whatever their seeds."""
    if not a.settings or not b.settings or a.settings["recipe"] != b.settings["recipe"]:
        return False
    return difference(a.settings, b.settings) is None


def _pair(a: Entry, b: Entry) -> Difference:
    num_draws, total = a.right.shape
    if a.result.graded():
        gap = float((a.right - b.right).mean())
        p, interval = paired_t(a.right[0].tolist(), b.right[0].tolist()) or (1.0, (gap, gap))  # the same on every image
        return Difference(a=a.label, b=b.label, value=gap, interval=interval, p=p, test="paired t")
    if num_draws > 1:  # the same draws on both sides, or they would not meet
        differences = a.right.sum(0) - b.right.sum(0)
        return Difference(
            a=a.label,
            b=b.label,
            value=int(differences.sum()) / a.right.size,
            interval=paired_draws_interval(differences, num_draws),
            p=sign_flip(differences),
            test="exact sign-flip",
        )
    only_a, only_b = int((a.right & ~b.right).sum()), int((b.right & ~a.right).sum())
    return Difference(
        a=a.label,
        b=b.label,
        value=(only_a - only_b) / total,
        interval=paired_interval(only_a, only_b, total),
        p=mcnemar(only_a, only_b),
        only_a=only_a,
        only_b=only_b,
        test="exact McNemar",
    )


def _methods(entries: list[Entry]) -> list[Method]:
    """Runs with the same settings, if there are any that differ in their seed."""
    found: list[list[Entry]] = []
    for run in (entry for entry in entries if entry.seed is not None):
        same = next((runs for runs in found if _alike(runs[0], run)), None)
        if same is None:
            found.append([run])
        elif all(run.seed != other.seed for other in same):  # the same seed again is no second draw
            same.append(run)
    return [_method(runs) for runs in found] if any(len(runs) > 1 for runs in found) else []


def _method(runs: list[Entry]) -> Method:
    accuracies = {run.seed: float(run.right.mean()) for run in runs if run.seed is not None}
    values = list(accuracies.values())
    return Method(
        label=runs[0].label + (f" and {len(runs) - 1} more" if len(runs) > 1 else ""),
        accuracies=dict(sorted(accuracies.items())),
        mean=fmean(values),
        interval=mean_interval(values) if len(values) > 1 else None,
    )


def _method_pair(a: Method, b: Method, paired: bool) -> Difference:
    if paired and list(a.accuracies) != list(b.accuracies):
        raise UserError(
            f"--paired-seeds: {a.label} has the seeds {list(a.accuracies)}, {b.label} {list(b.accuracies)};"
            " give both the same, or leave the flag out"
        )
    test = paired_t if paired else welch
    p, interval = test(list(a.accuracies.values()), list(b.accuracies.values())) or (None, None)
    return Difference(
        a=a.label, b=b.label, value=a.mean - b.mean, interval=interval, p=p, test="paired t" if paired else "Welch"
    )


def _corrected(differences: list[Difference]) -> list[Difference]:
    """The same, with `p_holm`."""
    tested = [(found, found.p) for found in differences if found.p is not None]
    for (found, _), p in zip(tested, holm([p for _, p in tested]), strict=True):
        found.p_holm = p
    return differences
