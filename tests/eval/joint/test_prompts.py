"""Names and templates of strangers: what is said of each class, and what is refused in one line."""

from pathlib import Path

import numpy as np
import pytest

from eyespot.data_pipeline.augment.views import TextView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.eval.joint.prompts import TEMPLATES, Wording, prompt_tokens

VIEW = TextView(context=12)


def written(folder: Path, content: bytes) -> Path:
    (folder / "lines.txt").write_bytes(content)
    return folder / "lines.txt"


def test_templates_are_those_that_are_given_or_ours(tmp_path):
    assert Wording().templates() == TEMPLATES and all(template.count("{}") == 1 for template in TEMPLATES)
    path = written(tmp_path, "\ufeffa sketch of {}\r\n\n  “{}” 猫 \n".encode())
    asked = Wording(prompts=("a photo of a {}.",), prompts_file=path)
    assert asked.templates() == ("a photo of a {}.", "a sketch of {}", "“{}” 猫")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"--prompts .*lines\.txt: is empty; write one template a line"),
        (b" \n\t\n", r"lines\.txt: is empty"),
        (b"a \xff {}", r"lines\.txt: is not UTF-8"),
        (b"a photo of a {}.\na photo", r"lines\.txt, line 2: must have {} once, where the name goes"),
        (b"a {} and a {}", r"line 1: must have {} once"),
        (b"a {}\x1b[2J", r"line 1: holds control characters"),
        (b"a {}\na {}", r"line 2: stands there twice"),
        (None, r"No such file"),
    ],
)
def test_a_wrong_file_of_templates_is_one_line(content, message, tmp_path):
    path = tmp_path / "nothing" if content is None else written(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        Wording(prompts_file=path).templates()
    assert "\n" not in str(error.value)


def test_a_wrong_template_of_the_command_line_is_named():
    with pytest.raises(UserError, match=r"^--prompt 'a photo': must have {} once"):
        Wording(prompts=("a photo",)).templates()


def test_names_are_the_manifests_or_the_files(tmp_path):
    assert Wording().names(["sports_car", " owl", "猫"]) == ["sports car", "owl", "猫"]
    path = written(tmp_path, b"a crane, the bird\na crane, the machine\n")
    assert Wording(names_file=path).names(["crane", "crane_"]) == ["a crane, the bird", "a crane, the machine"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat", "_"], r"class 1, '_': has no name; name the classes with --class-names FILE"),
        (["night_owl", "dog", "night owl"], r"class 2, 'night owl': is also the name of class 0"),
        (["cat", "dog\x1b]52;c;b3du\x07"], r"class 1, 'dog\\x1b\]52;c;b3du\\x07': holds control characters"),
        (["cat", "dog\nbird"], r"class 1, 'dog\\nbird': holds control characters"),
    ],
)
def test_wrong_names_are_one_line(classes, message):
    with pytest.raises(UserError, match=message) as error:
        Wording().names(classes)
    assert str(error.value).isprintable()


def test_a_wrong_file_of_names_is_one_line(tmp_path):
    for content, message in {
        b"": r"--class-names .*lines\.txt: is empty; write the name of one class a line",
        b"one\n": r"has 1 name, and there are 2 classes",
        b"one\none\n": r"lines\.txt, line 2: is also the name of class 0; give each class a name of its own",
        b"\xe9\n": "is not UTF-8",
    }.items():
        with pytest.raises(UserError, match=message):
            Wording(names_file=written(tmp_path, content)).names(["a", "b"])


def test_every_prompt_is_said_of_every_class():
    found = prompt_tokens(["cat", "{x} {}"], ["a {}.", "{} {y}"], VIEW)
    texts = [["a cat.", "cat {y}"], ["a {x} {}.", "{x} {} {y}"]]
    tokens = load_tokenizer("clip", VIEW.context)
    assert found.shape == (2, 2, VIEW.context) and np.array_equal(found, np.stack([tokens(each) for each in texts]))


def test_a_cut_name_and_one_that_reads_like_another_are_refused():
    exact = "cat " * (VIEW.context - 2)  # beside the tokens that begin and end a text
    assert prompt_tokens([exact.strip()], ["{}"], VIEW).shape == (1, 1, VIEW.context)
    with pytest.raises(UserError, match=r"would be cut, for its texts have 12 tokens"):
        prompt_tokens([exact + "cat"], ["{}"], VIEW)
    with pytest.raises(UserError, match=r"class 'Cat': reads like class 'cat' to the run's tokenizer"):
        prompt_tokens(["cat", "Cat"], ["a {}"], VIEW)
