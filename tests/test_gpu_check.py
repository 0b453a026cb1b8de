"""benchmarks/gpu_check.py, which is to run on the first GPU, and what cuts its kit down."""

import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "gpu"))
import gpu_check
import kit_tree
from fat_binary import CUBIN, entries
from stub_libraries import replace, symbols
from trim_libraries import trimmed

BENCHMARKS = Path(gpu_check.__file__).parent


def dry(tmp_path: Path, *words: str, **environment: str) -> list[dict[str, str]]:
    """The table of a dry run."""
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), *words, "--work", str(tmp_path)]
    results = sorted((BENCHMARKS / "results").iterdir())
    environment = {**os.environ, "DRY": "1", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing is measured" in (tmp_path / "gpu.md").read_text()
    assert sorted((BENCHMARKS / "results").iterdir()) == results
    return json.loads((tmp_path / "gpu.json").read_text())["rows"]


def test_what_a_phase_had_found_stands_when_it_fails_and_the_next_runs(tmp_path):
    """As on a machine whose DALI is broken."""
    broken = tmp_path / "broken" / "nvidia" / "dali"
    broken.mkdir(parents=True)
    (broken.parent / "__init__.py").touch()
    (broken / "__init__.py").write_text("raise ImportError('libnvjpeg.so.13 is missing')")
    path = os.pathsep.join([str(tmp_path / "broken"), os.environ.get("PYTHONPATH", "")])
    rows = dry(tmp_path, "environment", "loss", PYTHONPATH=path)
    told = {row["what"]: row["found"] for row in rows if row["phase"] == "environment"}
    assert torch.__version__ in told["torch, CUDA"]
    assert told["failed"] == "ImportError: libnvjpeg.so.13 is missing"
    assert told["how it ended"] == "ended with exit code 1"
    assert any("ms" in row["found"] for row in rows if row["phase"] == "loss")


def test_every_phase_has_its_file():
    assert all((BENCHMARKS / "gpu" / f"{phase.name}.py").is_file() for phase in gpu_check.PHASES)


def test_the_views_that_are_timed_need_the_kernels_of_rand_augment():
    from gpu.views import RECIPES, views_of

    assert any(view.rand_augment and view.erase for view in views_of(RECIPES[-1]).images)


@pytest.mark.thorough
def test_phases_run_dry(tmp_path):
    """Not all of them, which takes two minutes of a free machine: DRY=1 make gpu-check."""
    some = ["views", "convolutions", "saving"]
    rows = dry(tmp_path, *some)
    assert list(dict.fromkeys(row["phase"] for row in rows)) == some
    assert not [row for row in rows if row["what"] in ("failed", "how it ended")]


def test_a_phase_that_takes_too_long_is_ended_and_said(tmp_path):
    rows = gpu_check.run_apart(gpu_check.PHASES[0], tmp_path, 0.2)
    assert rows == [("environment", "how it ended", "took more than 0 s and was ended")]


def test_all_fit_into_ten_minutes_and_what_is_left_over_is_said(tmp_path):
    rows = gpu_check.check(gpu_check.PHASES, tmp_path, deadline=0)
    assert [row[2] for row in rows] == ["not measured: no time was left"] * len(gpu_check.PHASES)
    assert sum(phase.seconds for phase in gpu_check.PHASES if phase.name != "suite") <= 600


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@needs_git
def test_the_kit_and_its_part_of_the_tree_fit_into_what_is_carried():
    names = kit_tree.carried()
    tree = sum(kit_tree.archived_bytes(kit_tree.ROOT / name) for name in names)
    assert tree < 6_000_000, "photographs, pages or results are among it"
    assert tree + kit_tree.KIT_BYTES < 0.95 * kit_tree.MOST_BYTES
    assert not [name for name in names if Path(name).suffix in (".png", ".webp", ".svg", ".md", ".gz", ".jsonl")]


ALL_OF_IT = """
import importlib, sys
sys.path[:0] = ["benchmarks", "benchmarks/gpu"]
import eyespot, gpu_check, pytest
assert eyespot.__file__.startswith(sys.argv[1]), eyespot.__file__
for phase in gpu_check.PHASES:
    importlib.import_module(f"gpu.{phase.name}")
sys.exit(pytest.main(["--collect-only", "-q", "tests/test_gpu.py"]))
"""


@needs_git
def test_what_is_carried_is_enough_and_more_than_that_is_refused(tmp_path, monkeypatch):
    """All phases and tests can be imported there, with nothing else of the tree."""
    kit_tree.write(tmp_path / "kit.tar")
    tree = tmp_path / "there" / "eyespot"
    shutil.unpack_archive(tmp_path / "kit.tar", tree, filter="data")
    environment = {**os.environ, "DRY": "1", "PYTHONPATH": str(tree.parent)}
    command = [sys.executable, "-c", ALL_OF_IT, str(tree)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setattr(kit_tree, "MOST_BYTES", 1_000_000)
    with pytest.raises(SystemExit, match="more than 1000000; leave more out"):
        kit_tree.write(tmp_path / "large.tar")
    assert not (tmp_path / "large.tar").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_torch_says_why():
    assert gpu_check.why_no_gpu()


def library_with(*codes: tuple[int, int, bytes]) -> bytes:
    """A shared library's bytes: one container with (kind, architecture, code), and the section of names."""
    inner = b"".join(
        struct.pack("<HHIQ", kind, 0, 64, len(code)) + struct.pack("<IIII", 0, 0, 0, architecture) + bytes(32) + code
        for kind, architecture, code in codes
    )
    fat = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(inner)) + inner
    names = b"\0.nv_fatbin\0.shstrtab\0"
    header = bytearray(64)
    struct.pack_into("<Q", header, 0x28, len(header) + len(fat) + len(names))
    struct.pack_into("<HHH", header, 0x3A, 64, 2, 1)
    rows = [(1, len(header), len(fat)), (12, len(header) + len(fat), len(names))]
    table = [struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, begin, size, 0, 0, 1, 0) for name, begin, size in rows]
    return bytes(header) + fat + names + b"".join(table)


def test_code_for_other_gpus_is_zeroed_and_nothing_else():
    other, ours, ptx = (bytes([mark]) * 24 for mark in (0xAA, 0xBB, 0xCC))
    whole = library_with((CUBIN, 80, other), (CUBIN, 90, ours), (1, 90, ptx))
    assert [(entry.kind, entry.architecture) for entry in entries(whole)] == [(2, 80), (2, 90), (1, 90)]
    assert trimmed(whole, 90) == whole.replace(other, bytes(24)).replace(ptx, bytes(24))


@pytest.mark.skipif(not all(map(shutil.which, ("gcc", "nm", "readelf"))), reason="needs gcc and binutils")
def test_a_stub_has_the_names_that_others_need_and_loads_with_them(tmp_path):
    def built(name: str, source: str, *options: str) -> Path:
        (tmp_path / "source.c").write_text(source)
        path = tmp_path / name
        command = ["gcc", "-shared", "-fPIC", "-o", path, tmp_path / "source.c", f"-Wl,-soname,{name}", *options]
        subprocess.run(command, check=True)
        return path

    (tmp_path / "versions").write_text("V_1 { global: one; level; local: *; };\n")
    script = f"-Wl,--version-script={tmp_path / 'versions'}"
    video = built(
        "libvideo.so.1", "int level = 7; int two(void) { return 2; } int one(int x) { return x + two(); }", script
    )
    source = "extern int level; int one(int); int seen(int x) { return one(x) + level; }"
    user = built("libuser.so", source, str(video), f"-Wl,-rpath,{tmp_path}")
    assert symbols(user, "undefined")["one"] == ("U", "V_1")
    replace(video, set(symbols(user, "undefined")), tmp_path)
    assert {name for name, (kind, _) in symbols(video, "defined").items() if kind in "TD"} == {"one", "level"}
    assert ctypes.CDLL(str(user)).seen(5) == 5  # what it is given, and an empty level
