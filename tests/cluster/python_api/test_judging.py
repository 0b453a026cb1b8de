"""Evaluations and reports from Python."""

import logging
from html.parser import HTMLParser

import pytest
import torch.distributed as dist

import eyespot
from eyespot.data_pipeline.errors import UserError


@pytest.fixture(scope="module")
def results(digits, tmp_path_factory) -> eyespot.Results:
    encoder = eyespot.load("test_vit", pretrained=False)
    out = tmp_path_factory.mktemp("results")
    return eyespot.evaluate("knn", encoder, digits, out=out, pretrained=False, image_size=32, device="cpu")


class Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def test_results_are_the_encoders_and_its_baselines(results):
    assert [result.role for result in results] == ["random"], "there are no published weights to judge beside it"
    assert results[0].accuracy is not None and results[0].accuracy > 0.5
    assert isinstance(results[:1], eyespot.Results) and len(results[:1]) == 1
    assert "random weights" in repr(results) and f"{results[0].accuracy:.2%}" in repr(results)


def test_a_notebook_shows_them_as_a_table(results):
    texts = Texts()
    texts.feed(results._repr_html_())
    title, header, rows = results.tables()[0]
    assert texts.found == [title, *[text for row in [header, *rows] for text in row if text]]


@pytest.mark.parametrize(
    ("protocol", "options", "message"),
    [
        ("knn", {"seed": -1}, "--seed -1: must be 0 or more"),
        ("knn", {"shots": "1%"}, "--shots, --draws: knn learns from all of train"),
        ("knn", {"colour": 1}, "Unrecognized options: --colour"),
        ("best", {}, "invalid choice 'best'"),
        ("zero-shot", {"images": 5}, "--images 5: zero-shot judges all labelled images"),
        ("zero-shot", {"prompt": ["a {}", "b {}"], "images": 5}, "--images 5: zero-shot judges all"),
        ("-h", {}, "protocol '-h': name one"),
        ("finetune", {}, "trains an encoder; run: eyespot eval finetune"),
    ],
)
def test_what_is_wrong_is_named(protocol, options, message, digits):
    with pytest.raises(UserError, match=message):
        eyespot.evaluate(protocol, "test_vit", digits, **options)


def test_the_process_group_of_the_program_around_stays(digits, tmp_path):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        options = {"out": tmp_path, "pretrained": False, "image_size": 32, "device": "cpu"}
        eyespot.evaluate("unlabeled", "test_vit", digits, **options)
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


def test_a_report_is_a_page_that_a_notebook_shows(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("eyespot"), "handlers", [])
    settings = {"encoder.name": "test_vit", "encoder.patch_size": 4, "data.batch_size": 16, "optim.warmup_steps": 0}
    more = {"steps": 2, "track": False, "device": "cpu", "run_dir": tmp_path / "run"}
    eyespot.fit(eyespot.recipe("mae_tiny", {**settings, "data.shards": digits}, **more))
    page = eyespot.report(tmp_path / "run", look=False)
    assert page.path == (tmp_path / "run" / "report.html").resolve() and page.path.is_file()
    html = page._repr_html_()
    assert html.startswith('<iframe srcdoc="&lt;!') and html.endswith("></iframe>"), "what follows is not its inside"
    with pytest.raises(UserError, match="runs: there are none"):
        eyespot.report()
