"""What a plan looks like; the numbers are tested where they are made."""

import io
import re
from dataclasses import replace

import pytest

from eyespot.cluster.planning.page import assumptions, efficiency, print_plan
from eyespot.cluster.planning.planner import Question, answer
from eyespot.data_pipeline.console import Console
from eyespot.pretrain.recipe_lookup import make_run


@pytest.fixture(scope="module")
def plan():
    return answer(Question(run=make_run("moco_tiny"), gpus=8), "moco_tiny")


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal_and_cuts_no_word(plan, width):
    page = io.StringIO()
    print_plan(plan, Console(file=page, width=width))
    text = page.getvalue()
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    assert "embeddings, keys: all-gather" in text
    assert "1,024" in text


def test_every_assumption_is_printed(plan):
    text = " ".join(assumptions(plan))
    for number in ("67 TFLOP/s in fp32", "3,350", "60%", "80%", "450", "50", "6 us", "8 us", "1.5 GB"):
        assert number in text
    assert "batch norm" in text


def test_what_a_loader_must_decode_of_clips_is_said(plan):
    clips = replace(plan, trace=replace(plan.trace, files=16))
    (line,) = (line for line in assumptions(clips) if "keeps up" in line)
    samples, files, decoded = (int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?=[ /])", line))
    assert files == 16 and abs(decoded - 16 * samples) <= 16
    (line,) = (line for line in assumptions(plan) if "keeps up" in line)
    assert "decoded" not in line


def test_where_samples_are_clips_nothing_is_counted_in_images(plan):
    clips = replace(plan, trace=replace(plan.trace, counted_as="clips"))
    pages = {}
    for counted_as, one in (("images", plan), ("clips", clips)):
        page = io.StringIO()
        print_plan(one, Console(file=page, width=120))
        pages[counted_as] = page.getvalue()
    assert "images per GPU" in pages["images"] and pages["images"].count("images/s") >= 3
    assert "clips per GPU" in pages["clips"] and pages["clips"].count("clips/s") >= 3
    assert "images/s" not in pages["clips"] and "images per GPU" not in pages["clips"]


def test_efficiency_is_relative_to_the_fewest_gpus(plan):
    assert efficiency(plan.weak[0], plan.weak) == 1.0
    assert 0 < efficiency(plan.strong[-1], plan.strong) < 1
