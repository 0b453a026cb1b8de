import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.judge import judge
from eyespot.eval.report.document import read_story, write_report
from eyespot.pretrain.dist import World
from eyespot.pretrain.spool import encode

VOID = {"meta", "img", "br", "path", "circle"}


class Page(HTMLParser):
    """Collects what a page refers to and says; fails where tags do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str | None] = []
        self.links: list[str | None] = []
        self.images: list[dict[str, str | None]] = []
        self.words = ""
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


def read(path) -> Page:
    text = path.read_text(encoding="utf-8")
    assert "@import" not in text and "url(" not in text
    assert not re.search(r"(src|href)=.https?:", text)
    return Page(text)


def write_metrics(run_dir, steps=12, broken=()):
    lines = []
    for step in range(1, steps + 1):
        loss = math.nan if step in broken else 1 / step
        values = {"step": step, "time": 0.0, "loss": loss, "lr": 1e-3, "samples_seen": 100 * step}
        lines.append(encode({**values, "images_per_second": 50.0, "epoch": step / 14, "grad_norm": 1.0}))
    (run_dir / "metrics.jsonl").write_bytes(b"".join(lines))


def test_a_complete_run(run_dir, digits):
    write_metrics(run_dir)
    (run_dir / "pictures").mkdir()
    Image.new("RGB", (24, 24)).save(run_dir / "pictures" / "step-00000012.png")
    world = World(rank=0, size=1, device=torch.device("cpu"))
    for protocol in ("knn", "retrieval", "unlabeled"):
        judge(protocol, str(run_dir), digits, out=None, seed=0, pretrained=False, world=world)
    page = read(write_report(run_dir))
    for said in (
        "mae_tiny",
        "complete: 12 steps",
        "random weights (seed 0)",
        "raw pixels",
        "95% interval",
        "1,200",
        "recall@5",
        "RankMe",
    ):
        assert said in page.words
    assert f"eyespot pretrain mae_tiny --data.shards {digits}" in page.words
    assert (
        all((source or "").startswith("data:image/png;base64,") for source in page.sources) and len(page.sources) == 1
    )
    assert all(image["alt"] for image in page.images)
    assert all((run_dir / str(link)).exists() for link in page.links) and "metrics.jsonl" in page.links


def test_a_run_that_has_not_begun(run_dir):
    page = read(write_report(run_dir))
    assert "Not judged yet" in page.words and "No step has been logged yet" in page.words


def test_a_run_that_is_still_going(run_dir):
    write_metrics(run_dir, steps=5, broken={3})
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "lo')
    page = read(write_report(run_dir))
    assert (
        "step 5 of 12: not complete yet" in page.words and "1 logged steps had a loss that is not finite" in page.words
    )


def test_what_the_monitors_saw_is_drawn(run_dir):
    write_metrics(run_dir)
    assert "while it learned" not in read(write_report(run_dir)).words
    seen = {"online/linear": 0.5, "health/effective_rank": 9.0, "health/collapsed": 0}
    lines = [encode({"step": step, "loss": 1.0, **seen, "health/collapsed": int(step > 16)}) for step in (14, 16, 18)]
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b"".join(lines[:2]))
    words = read(write_report(run_dir)).words
    assert "while it learned" in words and "Linear probe (%)" in words and "Effective rank" in words
    assert "Nearest neighbours" not in words and "Collapsed" not in words
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(lines[2])
    assert "Collapsed at 1 of the steps looked at, first at step 18" in read(write_report(run_dir)).words


def test_training_time_leaves_pauses_out(run_dir):
    write_metrics(run_dir)
    assert read_story(run_dir).seconds() == pytest.approx(24)


def test_missing_keys_are_tolerated(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "loss": 1}\n{"step": 3, "loss": 2}\n')
    assert tmp_path.name in read(write_report(tmp_path)).words


def test_text_is_escaped(run_dir):
    record = json.loads((run_dir / "run.json").read_text())
    record["recipe"] = "<script>alert(1)</script>"
    (run_dir / "run.json").write_text(json.dumps(record))
    assert "<script>" in read(write_report(run_dir)).words


@pytest.mark.parametrize(("content", "message"), [(None, "not a run folder"), ("{", "damaged"), ("[]", "damaged")])
def test_not_a_run(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=message):
        write_report(tmp_path)
