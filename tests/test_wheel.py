"""A built wheel holds the package and nothing else, and runs outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what git would check out, without this environment's help."""
    source = tmp_path_factory.mktemp("source") / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignored)
    words = [sys.executable, "-m", "build", "--wheel", "--installer", "uv", "--outdir", str(source.parent), str(source)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(source.parent.glob("*.whl"))


def test_it_holds_the_package_and_nothing_else(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"eyespot"}
    inside = {name.split("/")[1] for name in names}
    own = {"__init__.py", "__init__.pyi", "__main__.py", "py.typed"}
    assert inside == own | {"data_pipeline", "pretrain", "eval", "cluster"}
    for source in ("pretrain/recipes/mae.py", "cluster/commands/pretrain.py", "data_pipeline/loading/dali_graphs.py"):
        assert f"eyespot/{source}" in names
    assert {
        f"eyespot/pretrain/recipes/{name}.json" for name in ("measured", "measured_on_videos", "measured_on_members")
    } <= set(names)
    assert "eyespot/data_pipeline/shards/caltech10.tar.gz" in names
    for folder in ("eval/report/templates", "cluster/web/templates", "cluster/web/static"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        assert files and {f"eyespot/{path.relative_to(ROOT)}" for path in files} <= set(names)


def test_it_runs_outside_the_checkout(wheel, tmp_path):
    subprocess.run(
        ["uv", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)],
        check=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = run("-c", "import eyespot; print(eyespot.__file__)").strip()
    assert Path(place) == tmp_path / "site" / "eyespot" / "__init__.py"
    command = str(tmp_path / "site" / "bin" / "eyespot")
    assert "usage: eyespot" in run(command, "--help")
    assert "mae_tiny" in run(command, "recipes")
    run(command, "shards", "pack", "digits", "digits")
    assert "1,401 images" in run(command, "shards", "pack", "caltech10", "photographs")
    run(
        command,
        "pretrain",
        "mae_tiny",
        "--data.shards",
        "digits",
        "--run-dir",
        "run",
        "--stop-after",
        "1",
        "--no-track",
    )
    assert (tmp_path / "run" / "checkpoints" / "step-00000001" / "meta.json").is_file()
    run(command, "report", "run", "--no-look")
    assert "</html>" in (tmp_path / "run" / "report.html").read_text()
