"""The bar is for terminals only."""

import os
import pty
import subprocess
import sys

import pytest

START = "from eyespot.data_pipeline.progress_bar import ProgressBar\n"
PACKING = """
with ProgressBar("packing things", 3) as bar:
    for _ in range(3):
        bar.advance()
"""
FETCHING = """
with ProgressBar("encoder.safetensors", None, unit="bytes") as bar:
    bar.reach(1_000_000, 4_000_000)
    bar.advance(1_000_000)
"""
TRAINING = """
with ProgressBar("step", 50, done=20) as bar:
    bar.show("loss 1.25")
    bar.reach(21)
    with bar.beside("all images", 7) as advance:
        advance(3)
        bar._progress.refresh()
    bar.describe("last steps")
"""
IN_A_NOTEBOOK = """
import time
print("before")
with ProgressBar("<packing>", 3) as bar:
    bar.show("loss 1.25")
    for _ in range(3):
        time.sleep(0.6)
        bar.advance()
    with bar.beside("all images", 7) as advance:
        time.sleep(0.6)
        advance(3)
with ProgressBar("gone", 3, transient=True) as bar:
    time.sleep(0.6)
    bar.advance()
with ProgressBar("over at once", 3, transient=True) as bar:
    bar.advance()
print("after")
"""
HIDDEN = """
with ProgressBar("packing things", 3, shown=False) as bar:
    bar.advance()
"""


def drawn(program):
    """What a terminal gets on standard error, and what stands on standard output."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-c", START + program + "print('done')"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, check=True)
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 1 << 16):
            seen += part
    except OSError:  # Linux says so at the end
        pass
    os.close(ours)
    assert done.stdout == b"done\n"
    return seen.decode()


@pytest.mark.parametrize("program", [PACKING, FETCHING, TRAINING, HIDDEN])
def test_nothing_is_drawn_into_a_pipe(program):
    command = [sys.executable, "-c", START + program + "print('done')"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_terminal_gets_a_bar():
    seen = drawn(PACKING)
    assert "packing things" in seen and "3/3" in seen


def test_bytes_are_shown_as_sizes():
    seen = drawn(FETCHING)
    assert "2.0/4.0 MB" in seen


def test_figures_and_a_second_bar():
    seen = drawn(TRAINING)
    assert "loss 1.25" in seen and "21/50" in seen and "3/7" in seen
    last = seen[seen.rindex("last steps") :]
    assert "21/50" in last and "all images" in seen and "all images" not in last


def test_only_one_rank_draws():
    assert drawn(HIDDEN) == ""


def test_a_transient_bar_is_gone_at_the_end():
    kept, gone = drawn(PACKING), drawn(PACKING.replace("3) as", "3, transient=True) as"))
    assert gone.count("\x1b[2K") > kept.count("\x1b[2K")  # one line more is erased


@pytest.mark.thorough
def test_a_notebook_has_one_output_that_is_drawn_anew():
    import nbformat
    from nbclient import NotebookClient

    told: list[str] = []

    class Client(NotebookClient):
        def process_message(self, msg, cell, cell_index):
            told.append(msg["content"].get("data", {}).get("text/plain", ""))
            return super().process_message(msg, cell, cell_index)

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(START + IN_A_NOTEBOOK)])
    Client(book, coalesce_streams=True).execute()
    assert any(text.endswith("all images 3/7") for text in told)
    outputs = book.cells[0].outputs
    assert "".join(output.get("text", "") for output in outputs) == "before\nafter\n"
    bar, gone = (output for output in outputs if "data" in output)
    assert bar["data"]["text/plain"] == "<packing> 3/3  loss 1.25"
    drawn = '<progress aria-label="&lt;packing&gt;" value="3" max="3"></progress>'
    assert bar["data"]["text/html"] == f"<div>{drawn} &lt;packing&gt; 3/3  loss 1.25</div>"
    assert gone["data"] == {"text/plain": "", "text/html": ""}
