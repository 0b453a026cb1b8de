"""Which stored results meet in a comparison, and what keeps two of them from meeting. Reads files, computes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.results.result import Result, read_result
from eyespot.pretrain.run_record import RunRecord, damaged


@dataclass(kw_only=True, slots=True)
class Entry:
    """One result that takes part."""

    label: str
    """As the caller named it; a baseline by its own name."""
    result: Result
    right: Bool[np.ndarray, "draws m"] | Float64[np.ndarray, "1 m"]
    """Which test samples it has right, in each draw of what it learned from; most protocols have one.

    Where samples are more or less right, how much: the IoU of each image.
    """
    baseline: bool = False
    """Random weights or raw pixels that lie beside an encoder's result."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What its run was trained with, but for the seed; empty where that is not known."""
    seed: int | None = None
    """Of its run."""


def find_entries(
    places: Sequence[Path], *, protocol: str | None = None, baselines: bool = False, across_protocols: bool = False
) -> list[Entry]:
    """One entry for each place, all tested on the same samples, then the baselines that lie beside them, each once.

    Args:
        places: run folders, folders of results, or result files. Of a folder: its newest checkpoint's result.
        protocol: which results of a folder; None = the one that all places have.
        baselines: whether to add random weights and raw pixels.
        across_protocols: results of different protocols may meet.

    Raises:
        UserError: a place holds nothing to compare, or not on the same samples; the line says what differs.
    """
    found = {place: _results(place, protocol) for place in places}
    if len(found) < len(places):
        raise UserError(f"compare {' '.join(map(str, places))}: one of them is named twice")
    term = _shared_term({place: _own(results) for place, results in found.items()}, across_protocols)
    known: dict[str, Entry] = {}
    for place, results in found.items():
        fits = [result for result in _own(results) if _term(result, across_protocols) == term]
        if len(fits) > 1:
            raise UserError(f"{place}: {len(fits)} results fit ({_names(fits)}); name one result file instead")
        entry = _entry(place, fits[0])
        if (other := known.setdefault(fits[0].key, entry)) is not entry:
            raise UserError(
                f"compare: the two encoders are identical: {other.label} and {entry.label} give the very same features,"
                f" so there is no difference to test (key {fits[0].key}); name another one"
            )
    for place, results in found.items() if baselines else ():
        for result in results:
            beside = result.role != "encoder" and result not in _own(results)
            if beside and _term(result, across_protocols) == term and result.key not in known:
                known[result.key] = _baseline(place, result)
    return list(known.values())


def entry_of(result: Result) -> Entry | None:
    """A single result, named as it names itself; None where it does not say which samples were right."""
    place = Path(result.name)
    judged = result.answers() or result.graded()
    return Entry(label=result.name, result=result, right=_right(place, result)) if judged else None


def _results(place: Path, protocol: str | None) -> list[Result]:
    """The results of a place that say which samples were right."""
    if place.is_dir():
        folder = place / "eval" if (place / "eval").is_dir() else place
        found = [result for path in sorted(folder.glob("*.json")) if (result := read_result(path)) is not None]
    else:
        found = [result] if (result := read_result(place)) is not None else []
    if not found:
        raise UserError(f"{place}: no result of eyespot eval, nor a folder with one; make it with eyespot eval")
    kept = [result for result in found if protocol in (None, result.protocol)]
    if not kept:
        raise UserError(f"{place}: holds {_names(found)}, not --protocol {protocol}; make it with eyespot eval")
    judged = [result for result in kept if result.answers() or result.graded()]
    if not judged:
        raise UserError(f"{place}: {_names(kept)} does not say which samples were right, so it cannot be compared")
    known = [result for result in judged if result.test_sha256]
    if not known:
        raise UserError(f"{place}: made by an older eyespot that did not store on which samples; repeat eyespot eval")
    return known


def _own(results: list[Result]) -> list[Result]:
    """Those of the encoder, each protocol's and data set's newest checkpoint alone; without an encoder, all."""
    encoders = [result for result in results if result.role == "encoder"]
    newest = {_term(result, across_protocols=False): result for result in sorted(encoders, key=_age)}
    return list(newest.values()) or results


def _age(result: Result) -> tuple[int, bool]:
    """Of one checkpoint's weights and their average the weights themselves count as the newer."""
    return int(result.origin.get("step", 0)), "weights" not in result.origin


def _term(result: Result, across_protocols: bool) -> tuple[str, str, str]:
    """What two results must have in common."""
    how = "" if across_protocols else f"{result.protocol} {_shown_at(result)}"
    return result.test_sha256, result.train_sha256, how


def _shown_at(result: Result) -> str:
    size, noise = (result.origin.get(name) for name in ("image_size", "noise_level"))
    shown = f"images of {size} pixels" if size else "images as in training"
    return f"{shown} with noise of t {noise}" if noise else shown


def _shared_term(found: dict[Path, list[Result]], across_protocols: bool) -> tuple[str, str, str]:
    shared = set.intersection(*({_term(result, across_protocols) for result in own} for own in found.values()))
    if not shared:
        raise UserError(_unlike(found, across_protocols))
    if len(shared) > 1:
        kept = [result for result in next(iter(found.values())) if _term(result, across_protocols) in shared]
        protocols = sorted({result.protocol for result in kept})
        if len(protocols) > 1:
            raise UserError(
                f"--protocol: not given, and there are {', '.join(protocols)}; add --protocol {protocols[0]}"
            )
        data = sorted({f"{result.data} ({result.split})" for result in kept})
        raise UserError(f"compare: results on {' and '.join(data)}; name result files instead of folders")
    return shared.pop()


def _unlike(found: dict[Path, list[Result]], across_protocols: bool) -> str:
    """What keeps two places from being compared: of their results, the two that differ in the least."""
    for (first, left), (second, right) in combinations(found.items(), 2):
        reasons = min((_reasons(a, b, across_protocols) for a, b in product(left, right)), key=len)
        if reasons:
            return f"{first} and {second} cannot be compared: {'; '.join(reasons)}"
    return "compare: no protocol and data set that all of them share; compare fewer at once"


def _reasons(a: Result, b: Result, across_protocols: bool) -> list[str]:
    reasons = []
    if a.protocol != b.protocol and not across_protocols:
        reasons.append(f"protocol {a.protocol} against {b.protocol} (allow it with --across-protocols)")
    elif _shown_at(a) != _shown_at(b) and not across_protocols:
        reasons.append(f"{_shown_at(a)} against {_shown_at(b)} (allow it with --across-protocols)")
    if a.test_sha256 != b.test_sha256:
        if a.data != b.data:
            reasons.append(f"data {a.data} against {b.data}")
        elif a.split != b.split:
            reasons.append(f"split {a.split!r} against {b.split!r}")
        else:
            reasons.append(f"other test samples of {a.data}, or another order ({a.num_test:,} against {b.num_test:,})")
    elif a.train_sha256 != b.train_sha256:
        reasons.append(f"learned from other samples of {a.data} ({a.num_train:,} against {b.num_train:,})")
    return reasons


def _entry(place: Path, result: Result) -> Entry:
    settings, seed = _training(place) if result.role == "encoder" else ({}, None)
    if settings:
        settings["step"] = result.origin.get("step")
    return Entry(label=str(place), result=result, right=_right(place, result), settings=settings, seed=seed)


def _baseline(place: Path, result: Result) -> Entry:
    return Entry(label=f"{place}: {result.name}", result=result, right=_right(place, result), baseline=True)


def _right(place: Path, result: Result) -> Bool[np.ndarray, "draws m"] | Float64[np.ndarray, "1 m"]:
    if graded := result.graded():
        if len(graded[1]) != result.num_test:
            raise UserError(
                f"{place}: damaged: {plural(len(graded[1]), 'value')} stored for"
                f" {plural(result.num_test, 'test sample')}"
            )
        return np.array([graded[1]], np.float64)
    draws = [np.unpackbits(np.frombuffer(bytes.fromhex(answers), np.uint8)) for answers in result.answers()]
    for bits in draws:
        if not 0 <= len(bits) - result.num_test < 8:
            raise UserError(f"{place}: damaged: {len(bits)} answers stored for {result.num_test} test samples")
    return np.stack([bits[: result.num_test] for bits in draws]).astype(bool)


def _training(place: Path) -> tuple[dict[str, Any], int | None]:
    """The settings, without the seed, and the seed of the run in whose folder a result lies."""
    paths = [RunRecord.path(folder) for folder in (place, *place.parents[:2])]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return {}, None
    record = RunRecord.read(path)
    settings = {**record.run, "recipe": record.recipe, "manifest": record.manifest_sha256}
    try:
        return settings, int(settings.pop("seed"))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, "no field run.seed") from error


def _names(results: list[Result]) -> str:
    return ", ".join(sorted({result.protocol for result in results}))
