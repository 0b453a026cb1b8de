"""The encoder on the page: what it is shown, and that one part that cannot be made does not take others with it."""

import shutil

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.report.encoder_sections import EncoderPart, Exhibit, exhibit_sections, look_at
from eyespot.eval.report.run_data import read_stories
from eyespot.eval.report.sample_images import NUM_BANK, NUM_PICTURED, images_of
from eyespot.pretrain.networks.encoders import encode


def copies(run, tmp_path, *names):
    return read_stories([shutil.copytree(run, tmp_path / name) for name in names])


def test_features_are_those_of_the_runs_encoder(look):
    assert look.images.shape == (NUM_PICTURED, 3, 16, 16) and len(look.names) == NUM_PICTURED
    assert look.kind == "cls"  # which the knn result of the run has chosen
    few = look.specimens.mapped
    with torch.inference_mode():
        expected = encode(look.subject.encoder, images_of(few, look.subject.views, look.device))["cls"]
    torch.testing.assert_close(look.mapped(), expected, rtol=1e-4, atol=1e-5)
    assert (len(look.mapped()), len(look.bank())) == (359, NUM_BANK)  # all of test
    assert look.mapped() is look.mapped()


def test_broken_weights_are_said(look):
    with torch.no_grad():
        next(look.subject.encoder.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="not all finite"):
        look.mapped()


def test_why_nothing_can_be_looked_at(digits_run, tmp_path):
    (story,) = copies(digits_run, tmp_path, "bare")
    shutil.rmtree(story.run_dir / "checkpoints")
    assert look_at(story, lambda said: None, torch.device("cpu")) == "the run has no complete checkpoint yet"
    (section,) = exhibit_sections([story], [EncoderPart(title="A", about="", make=lambda look: Exhibit())])
    assert section.title == "What it sees"
    assert section.data["missing"] == ["No pictures: the run has no complete checkpoint yet."]


def test_a_part_that_cannot_be_made_is_left_out_with_a_sentence(digits_run, tmp_path):
    def only_of_the_first(look):
        if look.story.label != "one":
            raise UserError("it has no such thing")
        return Exhibit(words="seen")

    parts = [
        EncoderPart(title="Always", about="a", make=lambda look: Exhibit(words=look.story.label)),
        EncoderPart(title="Sometimes", about="b", make=only_of_the_first, half=True),
    ]
    always, sometimes = exhibit_sections(copies(digits_run, tmp_path, "one", "two"), parts)
    assert [(heading, exhibit.words) for heading, _, exhibit in always.data["exhibits"]] == [
        ("one", "one"),
        ("two", "two"),
    ]
    assert [heading for heading, _, _ in sometimes.data["exhibits"]] == ["one"]
    assert always.data["missing"] == [] and sometimes.data["half"]
    assert sometimes.data["missing"] == ["Left out for two: it has no such thing."]


def test_parts_that_no_run_has_are_named_together(digits_run, tmp_path):
    def never(look):
        raise UserError("it has no such thing")

    parts = [
        EncoderPart(title="Heads", about="a", make=never),
        EncoderPart(title="Always", about="b", make=lambda look: Exhibit(words=look.story.label)),
        EncoderPart(title="Tails", about="c", make=never),
    ]
    always, rest = exhibit_sections(copies(digits_run, tmp_path, "one", "two"), parts)
    assert (always.title, rest.title) == ("Always", "Left out")
    said = [f"{part}. Left out for one, two: it has no such thing." for part in ("Heads", "Tails")]
    assert rest.data["missing"] == said and all(sentence in rest.body() for sentence in said)
