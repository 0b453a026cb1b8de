"""Pages: the list of runs, one run, several runs beside each other. Every text in them is escaped by its template."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import urlencode

from markupsafe import Markup

from eyespot import __version__
from eyespot.cluster.status.survey import State, Status, duration
from eyespot.cluster.web.answers import Answer, NotFound, Query
from eyespot.cluster.web.curves import curves
from eyespot.cluster.web.run_files import NUM_PICTURES, RunFiles, Shown
from eyespot.cluster.web.run_list import Look, RunList, Seen
from eyespot.cluster.web.sketches import sparkline
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.report.charts import short
from eyespot.eval.report.rendering import TEMPLATES, Section, environment
from eyespot.eval.report.result_section import judgement
from eyespot.eval.report.run_data import MAX_STORIES
from eyespot.eval.report.settings_sections import settings
from eyespot.eval.report.training_sections import speed

log = logging.getLogger("eyespot")

_HERE = Path(__file__).parent
_STATIC = {
    "page.css": (TEMPLATES / "page.css", "text/css"),
    "web.css": (_HERE / "static" / "web.css", "text/css"),
    "uPlot.min.css": (_HERE / "static" / "uPlot.min.css", "text/css"),
    "uPlot.min.js": (_HERE / "static" / "uPlot.min.js", "text/javascript"),
    "curves.js": (_HERE / "static" / "curves.js", "text/javascript"),
    "live.js": (_HERE / "static" / "live.js", "text/javascript"),
    "icon.svg": (_HERE / "static" / "icon.svg", "image/svg+xml"),
}
_WITHOUT = math.inf
_SORTS: dict[str, tuple[str, Callable[[Seen], Any]]] = {
    "name": ("run", lambda seen: seen.name),
    "state": ("state", lambda seen: _STATES.index(_state(seen))),
    "step": ("step", lambda seen: -(seen.status.step if seen.status else 0)),
    "left": ("time left", lambda seen: _known(seen.status and seen.status.seconds_left)),
    "loss": ("loss", lambda seen: _known(seen.status and seen.status.loss)),
    "probe": ("probes", lambda seen: -max((value for _, value in _probes(seen)), default=-_WITHOUT)),
    "speed": ("images/s", lambda seen: -_known(seen.status and seen.status.images_per_second, -_WITHOUT)),
}
"""What the list can be sorted by: the heading, and what comes first has the least of it."""
_STATES: tuple[State, ...] = ("running", "stopping", "waiting", "failed", "unknown", "stopped", "new", "done")
MOST_ROWS = 500
"""On one page; a search finds the others."""


class Pages:
    """Makes what addresses ask for.

    Args:
        runs: the runs.
    """

    def __init__(self, runs: RunList) -> None:
        self.runs = runs
        self._templates = environment(_HERE / "templates")
        self._static = {f"/static/{name}": place for name, place in _STATIC.items()}
        self._routes: dict[str, Callable[[Query], Answer]] = {
            "/": self._list,
            "/run": self._run,
            "/compare": self._compare,
            "/curves.json": self._curves,
            "/picture": self._picture,
        }

    def answer(self, path: str, pairs: list[tuple[str, str]]) -> Answer:
        """The answer to a request.

        Args:
            path: of the address.
            pairs: what stands behind its question mark.

        Raises:
            NotFound: there is nothing at this address.
        """
        if path in self._static:
            file, kind = self._static[path]
            kind = kind if kind.startswith("image/") else f"{kind}; charset=utf-8"
            return Answer(body=file.read_bytes(), kind=kind)
        if (route := self._routes.get(path)) is None:
            raise NotFound("There is no such page; begin at /")
        return route(Query(pairs))

    def _list(self, query: Query) -> Answer:
        look = self.runs.look()
        words, state, sort = query.one("q").lower().split(), query.one("state"), query.one("sort", "state")
        found = [seen for seen in look.runs.values() if _matches(seen, words, state)]
        name = sort.removeprefix("-")
        key = _SORTS.get(name, _SORTS["state"])[1]
        found.sort(key=lambda seen: (key(seen), seen.name), reverse=False)
        if sort.startswith("-"):
            found.reverse()
        return self._page(
            "list.html.j2",
            look,
            title="Runs",
            rows=[_row(seen) for seen in found[:MOST_ROWS]],
            more=plural(len(found) - MOST_ROWS, "more run") if len(found) > MOST_ROWS else "",
            num_runs=len(look.runs),
            counts=_counts(look),
            places=[str(place) for place in self.runs.places],
            query={"q": query.one("q"), "state": state, "sort": sort},
            headings=[(known, heading) for known, (heading, _) in _SORTS.items()],
            most=MAX_STORIES,
        )

    def _run(self, query: Query) -> Answer:
        look, seen = self._seen(query.one("run"), fresh=True)
        files = self.runs.files(seen)
        story = files.story(seen.name)
        ranks, pictures = files.ranks(), files.pictures()
        wanted = int(query.number("rank", 0))
        rank = wanted if wanted in ranks else min(ranks, default=0)
        last = files.log(rank)
        return self._page(
            "run.html.j2",
            look,
            title=seen.name,
            runs=[_row(seen)],
            facts=_facts(seen, time.time()),
            warnings=_warnings(seen, files.warnings(last)),
            pictures=pictures if query.one("pictures") == "all" else pictures[:NUM_PICTURES],
            num_pictures=len(pictures),
            results=_body(lambda: judgement([story])),
            time=_body(lambda: _of_newest(speed([story]))) if len(story.metrics) else Markup(""),
            settings=_body(lambda: settings([story])),
            log=last,
            ranks=ranks[:64],
            folder=str(seen.run_dir),
        )

    def _compare(self, query: Query) -> Answer:
        asked = query.all("run")[:MAX_STORIES]
        pairs = [self._seen(run, fresh=True) for run in asked]
        if not pairs:
            raise NotFound("No run is named; tick some in the list of runs.")
        stories: list[Shown] = [self.runs.files(seen).story(seen.name) for _, seen in pairs]
        return self._page(
            "compare.html.j2",
            pairs[-1][0],
            title=f"{plural(len(stories), 'run')} side by side",
            runs=[_row(seen) for _, seen in pairs],
            results=_body(lambda: judgement(stories)),
            settings=_body(lambda: settings(stories)),
        )

    def _curves(self, query: Query) -> Answer:
        _, seen = self._seen(query.one("run"))
        return curves(self.runs.metrics(seen), query)

    def _picture(self, query: Query) -> Answer:
        _, seen = self._seen(query.one("run"))
        try:
            kind, content = RunFiles(seen.run_dir).picture(query.one("name"))
        except (OSError, ValueError) as error:
            raise NotFound("There is no such picture.") from error
        return Answer(body=content, kind=kind)

    def _seen(self, run: str, *, fresh: bool = False) -> tuple[Look, Seen]:
        if (found := self.runs.find(run, fresh=fresh)) is None:
            raise NotFound("There is no such run; the list of runs is at /")
        return found

    def _page(self, template: str, look: Look, **data: Any) -> Answer:
        text = self._templates.get_template(template).render(
            problems=look.problems, version=__version__, link=_link, **data
        )
        return Answer.html(text)


def _link(page: str, **words: str | Sequence[str]) -> Markup:
    """An address below the page's own, escaped."""
    pairs = [
        (name, one) for name, value in words.items() for one in ([value] if isinstance(value, str) else value) if one
    ]
    return Markup("{}").format(f"{page}?{urlencode(pairs, errors='surrogateescape')}" if pairs else page)


def _body(make: Callable[[], Section | None]) -> Markup:
    """A section of the report; a line in its place where a stranger's file makes it impossible."""
    try:
        section = make()
        return section.body() if section else Markup("")
    except Exception as error:
        log.debug("a section could not be made", exc_info=True)
        return Markup('<p class="warn">This part cannot be shown ({}).</p>').format(type(error).__name__)


def _of_newest(section: Section | None) -> Section | None:
    """Of the newest lines, and what charts would show moves above."""
    if section is not None:
        section.data |= {"charts": [], "since": "in its newest logged steps"}
    return section


def _row(seen: Seen) -> dict[str, Any]:
    """A run, for the list."""
    status, points = seen.status, seen.sketch.points
    loss = status.loss if status and status.loss is not None else None
    return {
        "id": seen.id,
        "name": seen.name,
        "recipe": status.recipe if status else "",
        "state": _state(seen),
        "words": seen.problem or (status.words if status else "not looked at yet"),
        "step": f"{status.step:,}" if status and (status.step or points) else "",
        "steps": f"{status.steps:,}" if status and status.steps else "",
        "share": _share(status),
        "left": duration(status.seconds_left) if status and _is_finite(status.seconds_left) else "",
        "loss": "" if loss is None else f"{loss:.4g}",
        "path": sparkline(points),
        "course": f"loss from {short(points[0][1])} to {short(points[-1][1])}" if len(points) > 1 else "",
        "probes": [(name, f"{value:.1%}") for name, value in _probes(seen)],
        "speed": f"{status.images_per_second:,.0f}" if status and _is_finite(status.images_per_second) else "",
        "notes": list(status.notes) if status else [],
    }


def _facts(seen: Seen, now: float) -> list[tuple[str, str]]:
    """Tiles above one run."""
    row, status, newest = _row(seen), seen.status, seen.sketch.newest
    if status is None:
        return []
    saved = status.checkpoint_time
    facts = [
        ("step", f"{row['step'] or 0}" + (f" of {row['steps']}" if row["steps"] else "")),
        ("time left", row["left"]),
        ("loss", row["loss"]),
        *((f"{name}, online", value) for name, value in row["probes"]),
        ("images per second", row["speed"]),
        ("waiting for data", f"{newest['data_wait_share']:.1%}" if "data_wait_share" in newest else ""),
        ("checkpoint", f"step {status.checkpoint_step:,}" if status.checkpoint_step is not None else ""),
        ("saved", f"{duration(now - saved)} ago" if saved is not None else ""),
        ("job", status.job or ""),
        ("nodes", ", ".join(status.nodes[:4]) + (" ..." if len(status.nodes) > 4 else "")),
        ("job ends in", duration(status.job_seconds_left) if status.job_seconds_left is not None else ""),
    ]
    return [(name, value) for name, value in facts if value]


def _warnings(seen: Seen, lines: list[str]) -> list[str]:
    notes = list(seen.status.notes) if seen.status else []
    return [*([seen.problem] if seen.problem else []), *notes, *lines[-8:]]


def _probes(seen: Seen) -> list[tuple[str, float]]:
    """The newest answers of the probes that run beside training: shares."""
    newest = seen.sketch.newest
    found = [(name.removeprefix("online/"), newest[name]) for name in ("online/linear", "online/knn") if name in newest]
    return [(name, value) for name, value in found if -1 <= value <= 2]


def _state(seen: Seen) -> State:
    return "unknown" if seen.problem or seen.status is None else seen.status.state


def _share(status: Status | None) -> str:
    """Of the steps that are done, 0..1."""
    if status is None or not status.steps or status.steps < 0:
        return ""
    return f"{min(1.0, max(0, status.step) / status.steps):.4f}"


def _counts(look: Look) -> list[tuple[str, int]]:
    states = [_state(seen) for seen in look.runs.values()]
    return [(state, states.count(state)) for state in _STATES if state in states]


def _matches(seen: Seen, words: list[str], state: str) -> bool:
    text = f"{seen.name} {seen.status.recipe if seen.status else ''}".lower()
    return state in ("", _state(seen)) and all(word in text for word in words)


def _known(value: float | None, without: float = _WITHOUT) -> float:
    return value if _is_finite(value) else without


def _is_finite(value: float | int | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
