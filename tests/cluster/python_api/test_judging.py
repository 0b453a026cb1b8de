"""Evaluations and reports from Python."""

import logging
from html.parser import HTMLParser

import pytest
import torch.distributed as dist

import eyespot
from eyespot.cluster.cli import main
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.results.result import read_result


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
        ("knn", {"seed": -1}, "^seed -1: must be 0 or more"),
        ("knn", {"shots": "1%"}, "^shots, draws: knn learns from all of train"),
        ("knn", {"colour": 1}, "Unrecognized options: colour"),
        ("best", {}, "invalid choice 'best'"),
        ("zero-shot", {"images": 5}, "^images 5: zero-shot judges all labelled images"),
        ("zero-shot", {"prompt": ["a {}", "b {}"], "images": 5}, "^images 5: zero-shot judges all"),
        ("-h", {}, "protocol '-h': name one"),
        (5, {}, r"^protocol: a int; name one"),
        ("finetune", {"recipe": "mae_tiny"}, "recipe 'mae_tiny': does not train on labels"),
        (
            "finetune",
            {"recipe": "finetune_tiny", "optim": {"lrs": 1}},
            r"^optim\.lrs: there is no such setting in fine",
        ),
        ("finetune", {"recipe": "finetune_tiny", "optim": {"lr": "x"}}, r"optim\.lr 'x': expected float"),
    ],
)
def test_what_is_wrong_is_named(protocol, options, message, digits, untyped):
    with pytest.raises(UserError, match=message):
        eyespot.evaluate(
            protocol, "test_vit", digits, **({"pretrained": False} if protocol == "finetune" else {}), **options
        )


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


def test_a_protocol_that_trains_gives_what_the_command_gives(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger("eyespot"), "handlers", [])
    own = {"out": tmp_path / "one", "pretrained": False, "recipe": "finetune_tiny"}
    run = {"steps": 2, "track": False, "device": "cpu", "encoder": {"image_size": 32}, "optim": {"warmup_steps": 0}}
    found = eyespot.evaluate("finetune", "test_vit", digits, **own, **run)
    again = eyespot.evaluate("finetune", "test_vit", digits, **own, **run)
    assert [one.accuracy for one in found] == [one.accuracy for one in again] and len(found) == 1
    words = f"eval finetune test_vit {digits} --out {tmp_path / 'two'} --no-pretrained --recipe finetune_tiny --steps 2"
    more = ["--no-track", "--device", "cpu", "--encoder.image-size", "32", "--optim.warmup-steps", "0"]
    assert main([*words.split(), *more]) == 0
    ((one,), (two,)) = ([*(tmp_path / name).glob("*.json")] for name in ("one", "two"))
    assert read_result(one).scores == read_result(two).scores
    capsys.readouterr()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda: eyespot.evaluate("knn", None, "x"), "^model: a NoneType; give what eyespot.load returns"),
        (lambda: eyespot.evaluate("knn", "test_vit", 3), "^shards: a int; give a shard folder"),
        (lambda: eyespot.report(5), "^runs: a int; give run folders"),
        (lambda: eyespot.report("runs/x", out=3), "^out: a int; give a file"),
    ],
)
def test_wrong_kinds_are_one_line(how, message, untyped):
    with pytest.raises(UserError, match=message):
        how()
