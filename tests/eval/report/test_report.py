import json
import math
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from relabelled import rewrite_labels
from result_files import some_result, write

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.evaluate import judge
from eyespot.eval.report.report import write_report
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import to_values
from eyespot.pretrain.tracking.metrics_file import encode
from eyespot.pretrain.watchdog.time_breakdown import PARTS as TIMED

VOID = {"meta", "img", "br", "path", "circle"}
PARTS = (
    "Augmented views",
    "The task",
    "Patch features",
    "Attention",
    "Nearest neighbours",
    "Confusion",
    "Map of features",
)


class Page(HTMLParser):
    """Collects what a page refers to and says; fails where tags do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str | None] = []
        self.links: list[str | None] = []
        self.images: list[dict[str, str | None]] = []
        self.words = ""
        self.headings: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.sources += [value for name, value in attrs if name in ("src", "srcset", "data", "poster", "xlink:href")]
        self.links += [found["href"]] if "href" in found else []
        self.images += [found] if tag == "img" else []
        assert tag not in ("script", "link", "iframe", "object")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
        self.headings += [data] if self.open and self.open[-1] == "h2" else []


def read(path) -> Page:
    text = path.read_text(encoding="utf-8")
    assert "@import" not in text and "url(" not in text
    assert not re.search(r"(src|href)=.https?:", text)
    return Page(text)


def write_metrics(run_dir, steps=12, broken=(), shares=None):
    lines = []
    for step in range(1, steps + 1):
        loss = math.nan if step in broken else 1 / step
        values = {"step": step, "time": 0.0, "loss": loss, "lr": 1e-3, "samples_seen": 100 * step, **(shares or {})}
        lines.append(encode({**values, "images_per_second": 50.0, "epoch": step / 14, "grad_norm": 1.0}))
    (run_dir / "metrics.jsonl").write_bytes(b"".join(lines))


def plain_report(run_dir) -> Page:
    return read(write_report([run_dir], look=False))


@pytest.mark.parametrize(
    ("protocol", "pictures", "heading"),
    [("propagate", "propagated", "Carried masks"), ("propagate-points", "propagated-points", "Carried points")],
)
def test_what_was_carried_at_the_newest_step_is_shown(protocol, pictures, heading, run_dir):
    assert heading not in plain_report(run_dir).headings
    folder = run_dir / "eval" / pictures
    folder.mkdir(parents=True)
    known = {"protocol": protocol, "role": "encoder", "num_classes": 0, "num_train": 0, "num_correct": None}
    for step in (3, 12):
        name = f"step-{step:08d}"
        write(run_dir, f"{name}.json", some_result(key=name, origin={"step": step, "checkpoint": name}, **known))
        for sheet in (0, 1):
            (folder / f"squares-abc_{name}_{sheet:02d}.png").write_bytes(b"a picture")
    for name in ("Lab colours of 8 x 8 pixels", "first mask, not moved"):
        bare = {**known, "role": "pixels", "origin": {}, "accuracy": 0.5, "interval": (0.4, 0.6)}
        write(run_dir, f"{name}.json", some_result(key=name, name=name, **bare))
    page = plain_report(run_dir)
    assert [name for name in page.headings if name.startswith("Carried")] == [
        heading
    ] and "squares-abc_step-00000012_00" in page.words
    assert page.sources == ["data:image/png;base64,YSBwaWN0dXJl"]
    assert "points above Lab colours of 8 x 8 pixels" in page.words and "above first mask, not moved" in page.words
    assert "test videos" in page.words and "0 classes" not in page.words


def test_a_complete_run(run_dir, digits):
    write_metrics(run_dir, shares={f"time_share/{part}": 1 / len(TIMED) for part in TIMED})
    world = World(rank=0, size=1, device=torch.device("cpu"))
    for protocol in ("knn", "retrieval", "unlabeled"):
        judge(protocol, str(run_dir), digits, out=None, seed=0, pretrained=False, world=world)
    first = write_report([run_dir]).read_text()
    page = read(write_report([run_dir]))
    text = (run_dir / "report.html").read_text()
    assert text.partition("<footer>")[0] == first.partition("<footer>")[0], "it is the same every time"
    for said in (
        "mae_tiny",
        "complete: 12 steps",
        "random weights (seed 0)",
        "raw pixels",
        "95% interval",
        "1,200",
        "recall@5",
        "RankMe",
        "95% masked",
        "Commonest mistakes",
        "359 test images",
        "communication14.3%",
    ):
        assert said in page.words
    assert f"eyespot pretrain mae_tiny --data.shards {digits}" in page.words
    assert [heading for heading in page.headings if heading in PARTS] == list(PARTS)
    assert "Left out" not in page.words
    assert all((source or "").startswith("data:image/webp;base64,") for source in page.sources)
    assert len(page.sources) == 4 + 5 * 8  # views; reconstructions, colours, attention, similar patches, neighbours
    assert all(image["alt"] for image in page.images)
    links = [str(link) for link in page.links]
    assert all((run_dir / link).exists() for link in links if not link.startswith("#")) and "metrics.jsonl" in links
    anchors = re.findall(r'<section id="([^"]*)"', text)
    assert [link.removeprefix("#") for link in links if link.startswith("#")] == anchors


def test_what_cannot_be_shown_is_left_out(run_dir, digits, tmp_path, monkeypatch):
    shutil.copytree(digits / "test", tmp_path / "plain")
    rewrite_labels(tmp_path / "plain", lambda labels: labels * 0 - 1)
    other = run_of(tmp_path / "resnet", tmp_path / "plain")
    monkeypatch.chdir(tmp_path)
    page = read(write_report([run_dir, other]))
    assert (tmp_path / "report.html").is_file()
    for said in (
        "Left out for simclr_tiny: the images have no labels.",
        "Left out for simclr_tiny: the method compares augmented views, and there is nothing else to see.",
        "Left out for simclr_tiny: ResNet has no class token whose attention could be drawn.",
        "2 runs side by side",
        "What differs",
        "cosine",
    ):
        assert said in page.words
    assert not [link for link in page.links if not str(link).startswith("#")]


def run_of(run_dir, shards):
    """A run of another method, on images without labels."""
    run = make_run("simclr_tiny")
    run.run_dir, run.data.shards, run.steps = run_dir, str(shards), 12
    torch.manual_seed(1)
    objective = fresh_objective(run)
    tensors = {f"model.{name}": tensor for name, tensor in objective.state_dict().items()}
    meta = checkpoint.Meta(step=3, loader={}, world_size=1, run_key="0")
    run_dir.mkdir()
    CheckpointWriter(run_dir, keep=2).save(tensors, meta, wait=True)
    record = {"recipe": "simclr_tiny", "run": to_values(run), "normalization": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (run_dir / "run.json").write_text(json.dumps(record))
    return run_dir


def test_without_its_shards_the_last_picture_is_shown(run_dir):
    record = json.loads((run_dir / "run.json").read_text())
    record["run"]["data"]["shards"] = "gone"
    (run_dir / "run.json").write_text(json.dumps(record))
    (run_dir / "pictures").mkdir()
    Image.new("RGB", (24, 24)).save(run_dir / "pictures" / "step-00000012.png")
    page = read(write_report([run_dir]))
    assert "No pictures: shards gone: no such folder" in page.words
    assert len(page.sources) == 1 and str(page.sources[0]).startswith("data:image/png")


def test_a_run_that_has_not_begun(run_dir):
    shutil.rmtree(run_dir / "checkpoints")
    page = read(write_report([run_dir]))
    assert "Not judged yet" in page.words and "No step has been logged yet" in page.words
    assert "No pictures: the run has no complete checkpoint yet." in page.words


def test_a_run_that_is_still_going(run_dir):
    write_metrics(run_dir, steps=5, broken={3})
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "lo')
    page = plain_report(run_dir)
    assert (
        "step 5 of 12: not complete yet" in page.words and "1 logged steps had a loss that is not finite" in page.words
    )
    assert "measured nothing but the waiting for data" in page.words


def test_what_the_monitors_saw_is_drawn(run_dir):
    write_metrics(run_dir)
    assert "while it learned" not in plain_report(run_dir).words
    seen = {"online/linear": 0.5, "health/effective_rank": 9.0, "health/collapsed": 0}
    lines = [encode({"step": step, "loss": 1.0, **seen, "health/collapsed": int(step > 16)}) for step in (14, 16, 18)]
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b"".join(lines[:2]))
    words = plain_report(run_dir).words
    assert "while it learned" in words and "Linear probe (%)" in words and "Effective rank" in words
    assert "Nearest neighbours" not in words and "Collapsed" not in words
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(lines[2])
    assert "Collapsed at 1 of the steps looked at, first at step 18" in plain_report(run_dir).words


def test_missing_keys_are_tolerated(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "loss": 1}\n{"step": 3, "loss": 2}\n')
    assert tmp_path.name in plain_report(tmp_path).words


def test_text_is_escaped(run_dir):
    record = json.loads((run_dir / "run.json").read_text())
    record["recipe"] = "<script>alert(1)</script>"
    (run_dir / "run.json").write_text(json.dumps(record))
    assert "<script>" in plain_report(run_dir).words


@pytest.mark.parametrize(("content", "message"), [(None, "not a run folder"), ("{", "damaged"), ("[]", "damaged")])
def test_not_a_run(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=message):
        write_report([tmp_path])


def test_a_secret_is_not_written(run_dir, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "very-secret-words")
    record = json.loads((run_dir / "run.json").read_text())
    record["argv"].append("--token=very-secret-words")
    (run_dir / "run.json").write_text(json.dumps(record))
    words = plain_report(run_dir).words
    assert "very-secret-words" not in words and "--token=***" in words


def test_where_it_is_written(run_dir, tmp_path):
    assert write_report([run_dir], look=False) == run_dir / "report.html"
    assert write_report([run_dir], tmp_path / "page.html", look=False) == tmp_path / "page.html"
    assert write_report([run_dir], tmp_path, look=False) == tmp_path / "report.html"
    with pytest.raises(UserError, match=r"choose another --out"):
        write_report([run_dir], tmp_path / "no" / "page.html", look=False)
