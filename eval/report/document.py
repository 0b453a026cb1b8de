"""RUN/report.html: one file that shows a run to somebody who was not there."""

import base64
import json
import math
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import eyespot
from eyespot.data_pipeline.atomic import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.manifest import find_shards, read_manifest
from eyespot.eval.report.charts import Point, Row, interval_chart, line_chart, short
from eyespot.eval.report.page import page, table
from eyespot.eval.result import Result, results_in
from eyespot.eval.tables import score_table
from eyespot.pretrain.checkpoint import complete
from eyespot.pretrain.spool import read_metrics

_ROLES = ("encoder", "random", "pixels")
_PROTOCOL_NAMES = {
    "linear": "Linear probe",
    "knn": "Nearest neighbours",
    "retrieval": "Retrieval",
    "clustering": "Clustering",
    "unlabeled": "Features without labels",
}
# metric, title, unit, whether the axis begins at 0
_TRAINING_CHARTS = (
    ("images_per_second", "Images per second", "", True),
    ("lr", "Learning rate", "", True),
    ("grad_norm", "Gradient norm", "", False),
    ("data_wait_share", "Share of time spent waiting for data (%)", "%", True),
)
_WATCHED_CHARTS = (
    ("online/linear", "Linear probe (%)", "%", False),
    ("online/knn", "Nearest neighbours (%)", "%", False),
    ("health/positive_similarity", "Cosine of two views of one image", "", False),
    ("health/negative_similarity", "Cosine of different images", "", False),
    ("health/alignment", "Alignment: distance of two views, squared", "", False),
    ("health/uniformity", "Uniformity (lower = more spread out)", "", False),
    ("health/effective_rank", "Effective rank", "", False),
    ("health/effective_rank_centered", "Effective rank, centred", "", False),
)


@dataclass(kw_only=True, slots=True)
class Story:
    """All that a run folder tells."""

    run_dir: Path
    record: dict[str, Any]
    """run.json."""
    metrics: list[dict[str, Any]]
    """metrics.jsonl, one per line; NaN and the infinities are floats again."""
    results: list[Result]

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return str(self.record.get("recipe", self.run_dir.name))

    def setting(self, *path: str, default: Any = None) -> Any:
        """A value of the resolved run, tolerant of what older runs lack."""
        value: Any = self.record.get("run", {})
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return default if value is None else value

    def series(self, name: str) -> list[Point]:
        """(step, value) of a metric; what is not a finite number is nan."""
        return [(line["step"], _number(line.get(name))) for line in self.metrics if name in line]

    def last(self, name: str) -> float:
        """A metric's newest finite value, else nan."""
        return next((value for _, value in reversed(self.series(name)) if math.isfinite(value)), math.nan)

    def seconds(self) -> float | int:
        """Time spent training: images over their rate, so that pauses between the parts of a run do not count."""
        lines = [{"samples_seen": 0}, *(line for line in self.metrics if line.get("images_per_second"))]
        return sum(
            (after.get("samples_seen", 0) - before.get("samples_seen", 0)) / after["images_per_second"]
            for before, after in pairwise(lines)
        )


def write_report(run_dir: Path) -> Path:
    """Writes ``RUN/report.html``, self-contained, from whatever the run folder holds so far.

    Raises:
        UserError: it is not a run folder, or cannot be written.
    """
    story = read_story(run_dir)
    sections = [_header(story), _tiles(story), _judgement(story), _pictures(story), _watched(story), _curves(story)]
    sections += [_settings(story), _reproduce(story), _files(story), _footer()]
    path = run_dir / "report.html"
    try:
        write_bytes(path, page(f"{story.recipe} · eyespot", sections).encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    return path


def read_story(run_dir: Path) -> Story:
    """Reads a run folder; whatever is not there yet is empty.

    Raises:
        UserError: there is no run.json, or it is damaged.
    """
    try:
        record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("not an object")
    except FileNotFoundError as error:
        raise UserError(f"run {run_dir}: no run.json, so it is not a run folder") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{run_dir / 'run.json'}: damaged ({error})") from error
    metrics = list(read_metrics(run_dir))
    return Story(run_dir=run_dir, record=record, metrics=metrics, results=results_in(run_dir))


def _header(story: Story) -> str:
    steps, done = story.setting("steps", default=0), story.metrics[-1]["step"] if story.metrics else 0
    state = f"complete: {done:,} steps" if done and done >= steps else f"step {done:,} of {steps:,}: not complete yet"
    encoder, size = story.setting("encoder", "name", default="encoder"), story.setting("encoder", "image_size")
    text = f"Self-supervised pretraining of {encoder}"
    text += f" at {size} × {size} pixels" if size else ""
    data = _data_name(story)
    text += f" on {data}, without labels." if data else ", without labels."
    return (
        f'<header><p class="eyebrow">eyespot report</p><h1>{escape(story.recipe)}</h1>'
        f'<p class="lead">{escape(text)}</p><p class="quiet">{escape(state)}.</p></header>'
    )


def _tiles(story: Story) -> str:
    rates = [value for _, value in story.series("images_per_second") if math.isfinite(value)]
    tiles = [
        ("images seen", _count(story.last("samples_seen"))),
        ("times through the data", f"{story.last('epoch'):.3g}"),
        ("training time", _duration(story.seconds())),
        ("images per second", f"{median(rates):,.0f}" if rates else "nan"),
        ("loss now", f"{story.last('loss'):.4g}"),
    ]
    for result in story.results:
        if result.role == "encoder" and result.protocol == "linear" and result.accuracy is not None:
            tiles = [tile for tile in tiles if tile[0] != "linear probe"]
            tiles.append(("linear probe", f"{result.accuracy:.1%}"))
    shown = [f'<div class="tile"><dt>{name}</dt><dd>{value}</dd></div>' for name, value in tiles if value != "nan"]
    return f'<dl class="tiles">{"".join(shown)}</dl>'


def _judgement(story: Story) -> str:
    title = "<h2>What the encoder learned</h2>"
    if not story.results:
        command = f"eyespot eval linear {shlex.quote(str(story.run_dir))} {shlex.quote(_shards(story))}"
        return f'{title}<p class="quiet">Not judged yet. This does it:</p><pre><code>{escape(command)}</code></pre>'
    parts = [
        title,
        "<p>Images are turned into features by the frozen encoder, and a simple classifier is asked to name them. The"
        " same encoder with random weights and the bare pixels show what there was before learning. Every choice was"
        " made on a tenth of the training images; bars are 95% intervals (Wilson).</p>",
    ]
    for _, group in groupby(sorted(story.results, key=_order), key=lambda result: _order(result)[:2]):
        parts.append(_comparison(list(group)))
    return "".join(parts)


def _comparison(results: list[Result]) -> str:
    """One protocol on one data set: plot, table, and the difference in words."""
    first = results[0]
    name = f"{_PROTOCOL_NAMES[first.protocol]} on {first.data}"
    if first.accuracy is None:
        return _spread(results, name)
    rows = [
        Row(label=result.name, value=result.accuracy, interval=result.interval, strong=result.role == "encoder")
        for result in results
        if result.accuracy is not None and result.interval is not None
    ]
    header, cells = score_table(results, digits=1)
    strong = {place for place, result in enumerate(results) if result.role == "encoder"}
    numbers = table(header, cells, numbers=range(1, len(header) - 1), strong=strong)
    plot = interval_chart(rows, title=name, chance=1 / first.num_classes)
    about = (
        f"{first.num_classes} classes, {first.num_train:,} training images, {first.num_test:,} test images"
        f" ({first.split}). Dashed: chance."
    )
    return (
        f'<section class="card" style="margin-bottom:16px"><h3>{escape(name)}</h3><p>{escape(_verdict(results))}</p>'
        f'<div class="compare"><div>{plot}</div><div>{numbers}'
        f'<p class="quiet">{escape(about)}</p></div></div></section>'
    )


def _spread(results: list[Result], name: str) -> str:
    """Numbers of features that nothing was asked of, and what is wrong with them."""
    header, cells = score_table(results)
    said = [f'<p class="warn">{escape(f"{r.name}: {alarm}")}</p>' for r in results for alarm in r.alarms]
    about = f'<p class="quiet">{results[0].num_test:,} test images ({escape(results[0].split)}).</p>'
    numbers = table(header, cells, numbers=range(1, len(header)))
    return f'<section class="card"><h3>{escape(name)}</h3>{"".join(said)}{numbers}{about}</section>'


def _verdict(results: list[Result]) -> str:
    known = [(r.role, r.accuracy, r.interval) for r in results if r.accuracy is not None and r.interval is not None]
    trained = [(accuracy, interval) for role, accuracy, interval in known if role == "encoder"]
    random = [(accuracy, interval) for role, accuracy, interval in known if role == "random"]
    if not trained or not random:
        return ""
    (accuracy, (low, high)), (baseline, (random_low, random_high)) = trained[-1], random[0]
    gain = 100 * (accuracy - baseline)
    apart = low > random_high or high < random_low
    side = "above" if gain >= 0 else "below"
    meaning = "the intervals do not overlap" if apart else "the intervals overlap, so this may be chance"
    return f"{abs(gain):.1f} points {side} the same encoder with random weights; {meaning}."


def _pictures(story: Story) -> str:
    found = sorted((story.run_dir / "pictures").glob("*.png"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    if not found:
        return ""
    is_mae = story.setting("objective", "mask_ratio") is not None
    said = "Each column is one image. Top: what the image is. Middle: the patches that the encoder sees. Bottom: the"
    said += " masked patches as the decoder fills them in, beside those it saw."
    caption = f"{found[-1].stem}. {said}" if is_mae else found[-1].stem
    encoded = base64.b64encode(found[-1].read_bytes()).decode()
    title = "Reconstructions" if is_mae else "Pictures"
    return (
        f'<h2>{title}</h2><figure class="card"><img alt="{escape(caption)}" src="data:image/png;base64,{encoded}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _curves(story: Story) -> str:
    if not story.metrics:
        return '<h2>Training</h2><p class="quiet">No step has been logged yet.</p>'
    loss = story.series("loss")
    missing = sum(not math.isfinite(value) for _, value in loss)
    note = f'<p class="warn">{missing} logged steps had a loss that is not finite; they are not drawn.</p>' * bool(
        missing
    )
    return (
        '<h2>Training</h2><div class="card"><h3>Loss</h3>'
        f'<div class="wide">{line_chart(loss, title="Loss", width=900, height=280)}</div>'
        f'<div class="narrow">{line_chart(loss, title="Loss")}</div>{note}</div>'
        f'<div style="margin-top:16px">{_charts(story, _TRAINING_CHARTS)}</div>'
    )


def _watched(story: Story) -> str:
    """What the monitors saw, where the run had any."""
    charts = _charts(story, _WATCHED_CHARTS)
    if not charts:
        return ""
    collapsed, alarm = [step for step, value in story.series("health/collapsed") if value == 1], ""
    if collapsed:
        alarm = f'<p class="warn">Collapsed at {len(collapsed)} of the steps looked at, first at step {collapsed[0]:,}:'
        alarm += " the encoder gave nearly the same features for every image.</p>"
    return (
        "<h2>The encoder while it learned</h2><p>Looked at now and then, on the same images each time. Accuracies are"
        " of quick probes on a part of the data: good for the trend, not for comparisons.</p>"
        f"{alarm}{charts}"
    )


def _charts(story: Story, wanted: tuple[tuple[str, str, str, bool], ...]) -> str:
    """Those charts for which there are numbers, side by side; shares are drawn in percent."""
    cards = []
    for name, title, unit, zero in wanted:
        points = [(step, value * (100 if unit else 1)) for step, value in story.series(name)]
        if any(math.isfinite(value) for _, value in points):
            chart = line_chart(points, title=title, unit=unit, zero=zero)
            cards.append(f'<div class="card"><h3>{title}</h3>{chart}</div>')
    return f'<div class="grid2">{"".join(cards)}</div>' if cards else ""


def _settings(story: Story) -> str:
    commit = str(story.record.get("git_commit") or "")
    changed = " with uncommitted changes" if story.record.get("git_diff_sha256") else ""
    rows = [
        ["recipe", story.recipe],
        ["encoder", _listed(story.setting("encoder", default={}))],
        ["data", f"{_data_name(story)}: {_shards(story)}"],
        ["batch size", str(story.setting("data", "batch_size", default=""))],
        ["optimiser", _listed(story.setting("optim", default={}))],
        ["objective", _listed(story.setting("objective", default={}))],
        ["seed", str(story.setting("seed", default=""))],
        ["precision, engine", f"{story.setting('precision', default='')}, {story.setting('engine', default='')}"],
        ["processes", str(story.record.get("world_size", ""))],
        [
            "peak memory",
            f"{story.last('peak_memory_gb'):.2f} GB" if math.isfinite(story.last("peak_memory_gb")) else "",
        ],
        ["started", str(story.record.get("started", ""))],
        ["code", f"{commit[:12]}{changed}" if commit else f"eyespot {story.record.get('eyespot', '')}"],
        ["manifest", str(story.record.get("manifest_sha256", ""))[:16]],
    ]
    versions = [[name, str(version)] for name, version in story.record.get("versions", {}).items()]
    more = f"<details><summary>Package versions</summary>{table([], versions)}</details>" if versions else ""
    rows = [row for row in rows if row[1].strip(", :")]
    return f'<h2>What was run</h2><div class="card">{table([], rows)}{more}</div>'


def _reproduce(story: Story) -> str:
    argv = [str(word) for word in story.record.get("argv", [])]
    commands = [f"git checkout {story.record['git_commit'][:12]}"] if story.record.get("git_commit") else []
    commands += [shlex.join(["eyespot", *argv[1:]])] if argv else []
    commands += dict.fromkeys(shlex.join(["eyespot", *result.argv[1:]]) for result in story.results)
    commands += [f"eyespot report {shlex.quote(str(story.run_dir))}"]
    return f"<h2>Do it again</h2><pre><code>{escape(chr(10).join(commands))}</code></pre>"


def _files(story: Story) -> str:
    known = [
        ("run.json", "all settings, versions, what the data was"),
        ("metrics.jsonl", "every logged step"),
        ("logs", "one log per process"),
        ("pictures", "all pictures"),
        ("eval", "results and cached features"),
    ]
    newest = [(f"checkpoints/{folder.name}", "the newest checkpoint") for folder in complete(story.run_dir)[-1:]]
    items = [
        f'<tr><th scope="row"><a href="{escape(name)}">{escape(name)}</a></th><td>{said}</td></tr>'
        for name, said in known + newest
        if (story.run_dir / name).exists()
    ]
    place = (
        f'<p class="quiet">In <code>{escape(str(story.run_dir))}</code>; the links work while this page lies there.</p>'
    )
    return f'<h2>Files</h2><div class="card"><table><tbody>{"".join(items)}</tbody></table></div>{place}'


def _footer() -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"<footer>Written by eyespot {eyespot.__version__} on {now}. This page asks no network for anything.</footer>"
    )


def _order(result: Result) -> tuple[str, str, int, int]:
    protocol = f"{list(_PROTOCOL_NAMES).index(result.protocol)}"
    return protocol, result.data, _ROLES.index(result.role), int(result.origin.get("step", 0))


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items() if value is not None)


def _shards(story: Story) -> str:
    return str(story.setting("data", "shards", default="SHARDS"))


def _data_name(story: Story) -> str:
    """What the shards say their name is, if they are still there."""
    shards = story.setting("data", "shards")
    try:
        return read_manifest(find_shards(shards)).name if shards else ""
    except UserError:
        return Path(shards).name


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e7 else short(value)


def _duration(seconds: float | int) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{minutes} min" if minutes < 100 else f"{hours:.1f} h"
