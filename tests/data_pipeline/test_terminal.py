"""No character of a stranger's that a terminal obeys gets there, whichever way it is printed."""

import io
import json
import os
import subprocess
import sys
import unicodedata

import pytest

from eyespot.data_pipeline.terminal import FilteredStream, brief, filter_output, one_line, plural, printable, unfiltered

OBEYED = [chr(code) for code in (*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x202E, 0x2066, 0xDC80)]
HOSTILE = "\x1b]52;c;b3du\x07\x1b[2J\x9b31m\u202egpj.\x7f\udcff\rverified"
SHOWN = r"\x1b]52;c;b3du\x07\x1b[2J\x9b31m\u202egpj.\u007f\udcff\x0dverified"


@pytest.mark.parametrize("character", OBEYED, ids=lambda character: f"{ord(character):04x}")
def test_what_terminals_obey_is_escaped(character):
    assert printable(f"a{character}b").isascii() and printable(f"a{character}b").isprintable()


def test_all_that_unicode_calls_control_is_escaped():
    left = {chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp")}
    assert {character for character in left if printable(character) == character} == {"\n", "\t"}


def test_the_text_of_people_stays():
    text = "Käse, 猫, café, 👩‍🚀, שלום\n\tλ 0.1 → 3"
    assert printable(text) == text
    assert one_line("two\nlines\tand columns") == r"two\nlines\tand columns"


def test_json_stays_json():
    text = json.dumps({HOSTILE: HOSTILE})
    assert json.loads(printable(text)) == {HOSTILE: HOSTILE}


def test_a_bar_overwrites_itself_and_nothing_else():
    shown = io.StringIO()
    stream = FilteredStream(shown)
    stream.write("\r 10%")
    stream.write("\r 20%")
    stream.write("\n")
    stream.write("name: ")
    stream.write("\rname: verified")
    stream.write("\n")
    stream.writelines(["good\rbad", "\n"])
    assert shown.getvalue() == "\r 10%\r 20%\nname: \\x0dname: verified\ngood\\x0dbad\n"


def test_colours_pass_where_they_are_ours_and_nothing_else_does():
    shown = io.StringIO()
    FilteredStream(shown, styled=True).write("\x1b[1;31mred\x1b[0m \x1b[2J \x1b]0;title\x07")
    assert shown.getvalue() == "\x1b[1;31mred\x1b[0m \\x1b[2J \\x1b]0;title\\x07"


PROGRAM = f"""
import logging, sys, threading, traceback, warnings
from eyespot.data_pipeline.terminal import filter_output
from eyespot.pretrain.redaction import mask_tracebacks
filter_output(), mask_tracebacks()
bad = {HOSTILE!a}
print(bad), print(bad, file=sys.stderr), sys.stdout.write(bad), sys.stderr.writelines([bad])
logging.warning("log %s", bad)
warnings.warn(bad)
try:
    raise ValueError(bad)
except ValueError:
    traceback.print_exc()
thread = threading.Thread(target=lambda: 1 / len([]) if bad else 0, name=bad)
thread.start(), thread.join()
sys.stdout.buffer.write(b"bytes\\xff")
raise KeyError(bad) from ValueError(bad)
"""


@pytest.mark.parametrize("environment", [{}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "1"}])
def test_of_a_whole_process(environment):
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, env={**os.environ, **environment})
    said = done.stdout + done.stderr
    assert done.returncode == 1 and b"KeyError" in said and b"UnicodeEncodeError" not in said
    assert done.stdout.endswith(b"bytes\xff")
    said = said.replace(b"bytes\xff", b"").replace(b"\n", b"").replace(b"\t", b"")
    assert said.decode().isprintable() and said.count(SHOWN.encode()) >= 8


def test_a_message_is_no_longer_than_anybody_reads():
    assert brief("short") == "short"
    long = brief(f"recipe {'x' * 100_000}: unknown; see eyespot recipes")
    assert len(long) < 2100 and long.startswith("recipe xx") and long.endswith("xx: unknown; see eyespot recipes")


def test_it_stands_before_the_stream_once(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    filter_output()
    first = sys.stdout
    filter_output()
    assert sys.stdout is first and unfiltered(sys.stdout) is shown
    sys.stdout.close()
    sys.stdout.write("\x1b")
    assert shown.getvalue() == r"\x1b"


def test_one_is_one_and_many_have_their_commas():
    assert plural(1, "rank") == "1 rank"
    assert plural(0, "image") == "0 images"
    assert plural(1438, "image") == "1,438 images"
    assert [plural(count, "class") for count in (1, 2)] == ["1 class", "2 classes"]
    assert [plural(count, "micro-batch") for count in (1, 16)] == ["1 micro-batch", "16 micro-batches"]
    assert [plural(count, "entry", "entries") for count in (1, 3)] == ["1 entry", "3 entries"]
