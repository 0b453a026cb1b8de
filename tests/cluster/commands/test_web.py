"""The command as a person starts it."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from watched_runs import begin_run

from eyespot.cluster import cli


def test_it_serves_until_ctrl_c(tmp_path):
    begin_run(tmp_path / "runs" / "first")
    words = [sys.executable, "-m", "eyespot.cluster.cli", "web", "runs", "--port", "0", "--token"]
    environment = {**os.environ, "SSH_CONNECTION": "1.2.3.4 5 6.7.8.9 22"}
    process = subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line, hint = process.stdout.readline(), process.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line)
    assert address is not None and "ssh -L" in hint
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with opener.open(address[0]) as answer:
        assert "first" in answer.read().decode() and "token" not in answer.url
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and (out, err) == ("", "ended\n")


def test_its_help(capsys):
    assert cli.main(["web", "--help"]) == 0
    assert "ssh -L" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none"], "none: no such folder"),
        ([".", "--port", "70000"], "--port 70000: must lie between 0 and 65535"),
        ([".", "--host", "no.such.host.invalid"], "--host no.such.host.invalid: "),
    ],
)
def test_wrong_input_is_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["web", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["web", ".", "--port", port]) == 2
    error = capsys.readouterr().err
    assert f"--port {port}: " in error and "name another port" in error and error.count("\n") == 1
