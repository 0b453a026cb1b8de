"""What hostile and merely odd inputs do to the command: tracebacks, hangs, crashes, silent losses, noise.

Each input is fed to the real ``eyespot``, in children of a process that has imported everything; --program starts the
installed command anew instead (5 seconds more each). About 12 minutes on two quiet cores.

python benchmarks/hostile_inputs.py [--only tars] [--only images/bomb] [--parallel 2] [--patience 1] [--keep FOLDER]
"""

import argparse
import contextlib
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hostile import (
    checkpoint_inputs,
    cluster_inputs,
    flag_inputs,
    image_inputs,
    manifest_inputs,
    piece_inputs,
    release_inputs,
    result_inputs,
    run_inputs,
    tar_inputs,
    tower_inputs,
    weight_inputs,
)
from hostile.case import Case, Verdict
from hostile.fixtures import make_fixtures
from hostile.forked import die_with_parent, import_all, run_case
from hostile.judge import FAULTS

PARTS = (
    tar_inputs,
    image_inputs,
    manifest_inputs,
    piece_inputs,
    run_inputs,
    checkpoint_inputs,
    weight_inputs,
    release_inputs,
    tower_inputs,
    result_inputs,
    flag_inputs,
    cluster_inputs,
)


def all_cases() -> list[Case]:
    """Every input, each name once."""
    found = [case for part in PARTS for case in part.cases()]
    twice = [name for name, count in Counter(f"{case.kind}/{case.name}" for case in found).items() if count > 1]
    if twice:
        raise ValueError(f"there are two inputs called {twice[0]}")
    return found


def chosen(cases: Sequence[Case], only: Sequence[str]) -> list[Case]:
    """Those that are named, or begin so; all where nothing is named."""
    names = {f"{case.kind}/{case.name}": case for case in cases}
    found = [
        name for word in only or [""] for name in names if name == word or (word not in names and name.startswith(word))
    ]
    return [names[name] for name in dict.fromkeys(found)]


def judged(
    cases: Sequence[Case], folder: Path, *, parallel: int, patience: float, program: str | None, keep: bool
) -> list[Verdict]:
    """The verdicts, in the order of the cases; ``import_all`` comes first. ``keep`` leaves the inputs in ``folder``."""
    fixtures = make_fixtures(folder / "fixtures")
    places = {number: folder / f"{number:04d}" for number in range(len(cases))}
    waiting, running, begun = list(places), dict[int, int](), time.monotonic()
    while waiting or running:
        while waiting and len(running) < parallel:
            number = waiting.pop(0)
            places[number].mkdir()
            if (child := os.fork()) == 0:
                _answer(cases[number], places[number], fixtures, patience, program)
            running[child] = number
        child, _ = os.wait()
        if child in running:
            done = len(cases) - len(waiting) - len(running) + 1
            number = running.pop(child)
            _progress(done, len(cases), time.monotonic() - begun, cases[number])
            if not keep:  # gigabytes, all together
                shutil.rmtree(places[number], ignore_errors=True)
    return [_read(case, places[number]) for number, case in enumerate(cases)]


def _answer(case: Case, place: Path, fixtures: Path, patience: float, program: str | None) -> None:
    """What the process of one case does; it does not come back."""
    os.setpgid(0, 0)
    die_with_parent()
    try:
        verdict = run_case(case, place, fixtures, patience=patience, program=program)
        (place.parent / f"{place.name}.verdict").write_bytes(pickle.dumps(verdict))
    except BaseException:  # the making of an input is at fault, or the judge
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
        sys.stderr.flush()
    finally:
        with contextlib.suppress(OSError):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.killpg(0, signal.SIGTERM)  # its servers
        os._exit(0)


def _read(case: Case, place: Path) -> Verdict:
    path = place.parent / f"{place.name}.verdict"
    if not path.exists():
        raise RuntimeError(f"{case.kind}/{case.name}: the judge itself failed, see above")
    return pickle.loads(path.read_bytes())


def _progress(done: int, total: int, seconds: float, case: Case) -> None:
    if sys.stderr.isatty():
        left = seconds / done * (total - done) / 60
        bar = "=" * (30 * done // total)
        print(
            f"\r{done}/{total} [{bar:<30}] {left:.0f} min left  {case.kind}/{case.name:<50.50}", end="", file=sys.stderr
        )


def table(verdicts: Sequence[Verdict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: for each kind how many inputs, how many right, how many wrong by fault."""
    header = ["kind", "inputs", "taken", "refused or told", *FAULTS]
    kinds = [*dict.fromkeys(verdict.kind for verdict in verdicts), "all"]
    rows = []
    for kind in kinds:
        mine = [verdict for verdict in verdicts if kind in ("all", verdict.kind)]
        right = [verdict.how for verdict in mine if not verdict.fault]
        faults = Counter(verdict.fault for verdict in mine)
        counts = [
            len(mine),
            right.count("taken"),
            len(right) - right.count("taken"),
            *(faults[name] for name in FAULTS),
        ]
        rows.append([kind, *map(str, counts)])
    return header, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", default=[], metavar="KIND[/NAME]", help="this input, or those that begin so"
    )
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--patience", type=float, default=1.0, help="times as long as on quiet cores")
    parser.add_argument("--program", default=None, metavar="EYESPOT", help="start this anew for each command")
    parser.add_argument("--keep", type=Path, default=None, help="leave the inputs in this new folder")
    parser.add_argument("--list", action="store_true", help="name the inputs and stop")
    options = parser.parse_args()
    cases = chosen(all_cases(), options.only)
    if options.list:
        print("\n".join(f"{case.kind}/{case.name}: {case.wants}" for case in cases))
        return
    begun = time.monotonic()
    import_all()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="hostile-"))
    folder.mkdir(exist_ok=True)
    try:
        verdicts = judged(
            cases,
            folder.resolve(),
            parallel=options.parallel,
            patience=options.patience,
            program=options.program,
            keep=options.keep is not None,
        )
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    show(verdicts, time.monotonic() - begun, whole=not options.only)
    sys.exit(any(verdict.fault for verdict in verdicts))


def show(verdicts: Sequence[Verdict], seconds: float, *, whole: bool) -> None:
    """Prints the wrong ones and the table; of the whole corpus, writes them into results/."""
    from results import RESULTS, write_results

    wrong = sorted((verdict for verdict in verdicts if verdict.fault), key=lambda one: FAULTS.index(one.fault))
    lines = [
        f"- **{one.fault}** {one.kind}/{one.name}: {one.how} (`{one.commands[-1]:.70}`, {one.wants})" for one in wrong
    ]
    print("\n".join(lines))
    header, rows = table(verdicts)
    name = "hostile_inputs" if whole else "hostile_inputs_some"
    write_results(
        name,
        title=f"Hostile inputs: {len(verdicts)}, of them wrong {len(wrong)}; {seconds / 60:.0f} minutes",
        header=header,
        rows=rows,
        details={"wrong": [asdict(one) for one in wrong], "seconds": seconds},
        script="hostile_inputs",
    )
    page = RESULTS / f"{name}.md"
    if whole:
        page.write_text(page.read_text() + "\n".join(["", "## Wrong", "", *(lines or ["None."]), ""]))
    else:
        page.unlink()
        page.with_suffix(".json").unlink()


if __name__ == "__main__":
    main()
