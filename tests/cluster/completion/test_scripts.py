"""The scripts in the shells that they are for."""

import os
import shutil
import subprocess
import sys

import pytest

from eyespot.cluster.completion.scripts import SCRIPTS


@pytest.fixture
def ask(cache, tmp_path):
    """Runs a line of a shell, beside its script, where there is a command ``eyespot``."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "eyespot").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m eyespot "$@"\n')
    (tmp_path / "bin" / "eyespot").chmod(0o755)
    (tmp_path / "notes.txt").touch()
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(cache), "HOME": str(tmp_path), "TERM": "xterm"}

    def call(shell, line, *flags):
        if shutil.which(shell) is None:
            pytest.skip(f"no {shell} here")
        (tmp_path / "script").write_text(SCRIPTS[shell])
        words = [shell, *flags, "-c", line]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120)
        assert done.stderr.strip() == "", done.stderr
        return done.stdout.splitlines()

    return call


def test_bash(ask):
    line = (
        'source ./script; complete -p eyespot; try() {{ COMP_WORDS=(eyespot "$@"); COMP_CWORD=$#; _eyespot eyespot;'
        " printf '%s\\n' \"${{COMPREPLY[@]}}\"; }}; try pretr; try pretrain mae_ti; try pretrain mae_tiny"
        " --device = cu; try launch -- pretrain mae_tiny --objective.mask-r; try eval fine ''"
    )
    said = ask("bash", line.format(), "--norc", "--noprofile")
    assert said[0] == "complete -F _eyespot eyespot"
    assert said[1:5] == ["pretrain", "mae_tiny", "cuda", "--objective.mask-ratio"] and "" in said[5:]


def test_fish(ask):
    line = "source ./script; {}".format("; ".join(f'complete -C "{typed}"' for typed in FISH_LINES))
    said = ask("fish", line, "--no-config")
    assert said == ["pretrain\ttrain an encoder with a recipe", "mae_tiny", "cuda", "notes.txt", "--device=cpu"]


FISH_LINES = (
    *("eyespot pretr", "eyespot pretrain mae_ti", "eyespot pretrain mae_tiny --device cu", "eyespot report not"),
    "eyespot pretrain mae_tiny --device=cp",
)

ZSH = r"""
compdef() { print -r -- "compdef $*"; }
compadd() { print -r -- ${(P)2}; }
_describe() { print -r -- ${(P)2}; }
_files() { print files; }
source ./script
try() { words=(eyespot "$@"); CURRENT=$#words; _eyespot; }
try pretr; try pretrain mae_ti; try pretrain mae_tiny --device cu; try report ''
"""
"""With its completion system stood in for, which wants a terminal."""


def test_zsh(ask):
    assert ask("zsh", "zsh -n ./script && echo fine", "-f") == ["fine"]
    said = ask("zsh", ZSH, "-f")
    assert said == ["compdef _eyespot eyespot", "pretrain:train an encoder with a recipe", "mae_tiny", "cuda", "files"]
