"""Help texts fit the terminal, and what can be run still can."""

import shlex

import pytest

from eyespot.cluster.help_text import fitted, show_help, unknown_command


def test_a_mistyped_command_has_a_suggestion():
    assert unknown_command("pakc", ["pack", "info"], "p").endswith("not one of pack, info; perhaps you meant p pack")
    assert unknown_command("zzz", ["pack"], "p") == "command 'zzz': not one of pack; see p --help"


def test_short_lines_and_boxes_stay():
    text = "usage: eyespot eval\n\n  one   two\n" + "│" + "x" * 90 + "│"
    assert fitted(text, 60) == text


def test_a_second_column_stays_one():
    lines = fitted(
        "  --name NAME    what it is called, in so many words that no line of a terminal holds them", 60
    ).split("\n")
    assert len(lines) == 2 and all(len(line) <= 60 for line in lines)
    assert lines[0].startswith("  --name NAME    what it") and lines[1].startswith(" " * 17 + "line of a")


@pytest.mark.parametrize("width", [40, 60, 79])
def test_a_broken_command_is_the_same_command(width):
    command = "  eyespot pretrain mae_tiny --data.shards data/digits --run-dir runs/first --steps 12 --resume auto"
    found = fitted(command, width)
    assert "\n" in found and max(map(len, found.split("\n"))) <= width
    assert shlex.split(found.replace("\\\n", "")) == shlex.split(command), "as a shell reads it"


def test_a_list_of_choices_is_broken_at_its_commas():
    found = fitted("usage: eyespot eval {" + ",".join(f"protocol-{n}" for n in range(20)) + "} MODEL", 60)
    assert max(map(len, found.split("\n"))) <= 60


def test_it_is_printed_for_this_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "50")
    show_help("word " * 30 + "\n")
    assert max(map(len, capsys.readouterr().out.split("\n"))) <= 50
