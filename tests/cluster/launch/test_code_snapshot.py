"""Freezing: all that is code and nothing else, whole or not at all."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from eyespot.cluster.launch import code_snapshot
from eyespot.cluster.launch.code_snapshot import freeze, freeze_code
from eyespot.cluster.status.records import Records
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.loop.environment import code_state
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import load_run

ROOT = Path(__file__).parents[3]


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A git tree with a recipe, as somebody works in it."""
    home = tmp_path / "project"
    home.mkdir()
    git(home, "init", "--quiet")
    (home / ".gitignore").write_text("ignored/\n")
    (home / "mine.py").write_text("import ours.loss\n")
    (home / "ours").mkdir()
    (home / "ours" / "__init__.py").write_text("")
    (home / "ours" / "loss.py").write_text("VALUE = 1\n")
    (home / "weights.bin").write_bytes(b"0" * (code_snapshot.MAX_FILE_BYTES + 1))
    (home / "json").mkdir()  # would hide the standard library's from the job
    (home / "json" / "__init__.py").write_text("")
    git(home, "add", "--all")
    git(home, "commit", "--quiet", "--message", "first")
    (home / "ours" / "loss.py").write_text("VALUE = 2\n")
    (home / "ours" / "new.py").write_text("")
    for folder, mark in [("ignored", "x.py"), ("env", "pyvenv.cfg"), ("runs/a", "run.json"), ("data", "manifest.json")]:
        (home / folder / "deep").mkdir(parents=True)
        (home / folder / mark).write_text("")
        (home / folder / "deep" / "file.py").write_text("")
    monkeypatch.syspath_prepend(str(home))
    return home


def test_a_recipe_is_frozen_with_what_lies_beside_it(project, tmp_path):
    code = tmp_path / "run" / "cluster" / "code"
    freeze_code(code, "mine:recipe")
    found = {name for name in names(code) if not name.startswith("eyespot/")}
    ours = {"mine.py", "ours/__init__.py", "ours/loss.py", "ours/new.py"}
    assert found == {".gitignore", *ours, "diff.patch", "frozen.json"}
    assert (code / "ours" / "loss.py").read_text() == "VALUE = 2\n"
    record = json.loads((code / "frozen.json").read_text())
    assert record["source"] == [str(ROOT), str(project)]
    assert record["left_out"] == [str(project / "weights.bin")]
    assert str(project / "ours" / "new.py") in record["untracked"]


def test_a_package_outside_of_git_is_frozen_alone(tmp_path, monkeypatch):
    site = tmp_path / "site"
    kept = ("deep/__init__.py", "deep/templates/page.html.j2", "recipes.py")
    for name in (*kept, "__pycache__/x.pyc", "../other.py"):
        path = site / "their_package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (site / "single_file.py").write_text("")
    monkeypatch.syspath_prepend(str(site))
    for recipe, expected in [
        ("their_package.recipes:r", {f"their_package/{name}" for name in kept}),
        ("single_file:r", {"single_file.py"}),
    ]:
        freeze_code(tmp_path / "code", recipe)
        found = {name for name in names(tmp_path / "code") if not name.startswith("eyespot/")}
        assert found == {*expected, "diff.patch", "frozen.json"}
    with pytest.raises(UserError, match="recipe sys: has no source files"):
        freeze_code(tmp_path / "code", "sys:r")


def test_eyespot_is_frozen_as_git_and_the_editor_have_it(tmp_path):
    code = tmp_path / "run" / "cluster" / "code"
    freeze_code(code, "mae_tiny")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in (name for name in listed.stdout.splitlines() if (ROOT / name).is_file()):
        assert (code / "eyespot" / name).read_bytes() == (ROOT / name).read_bytes(), name
    assert (code / "eyespot" / "eval" / "report" / "templates" / "page.html.j2").is_file()
    record, state = json.loads((code / "frozen.json").read_text()), code_state()
    assert {name: record[name] for name in state} == state
    patch = (code / "diff.patch").read_bytes()
    assert state["git_diff_sha256"] == (hashlib.sha256(patch).hexdigest() if patch else "")
    where = "import eyespot, eyespot.cluster.cli; print(eyespot.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", where], env={"PYTHONPATH": str(code)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(code / "eyespot" / "__init__.py")


def test_a_copy_that_fails_leaves_the_old_one(project, tmp_path, monkeypatch):
    code = tmp_path / "run" / "cluster" / "code"
    freeze_code(code, "mine:recipe")
    before = (code / "frozen.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(code_snapshot, "MAX_FILES", 3)
        with pytest.raises(UserError, match=r"code .*: more than 3 files or 200 MB"):
            freeze_code(code, "mine:recipe")
    assert (code / "frozen.json").read_bytes() == before
    assert [path.name for path in code.parent.iterdir()] == ["code"]
    (project / "mine.py").write_text("# edited\n")
    freeze_code(code, "mine:recipe")
    assert (code / "mine.py").read_text() == "# edited\n"
    assert [path.name for path in code.parent.iterdir()] == ["code"]


def test_the_run_is_written_as_from_reads_it(tmp_path, monkeypatch):
    run = make_run("mae_tiny")
    run.optim.lr, run.data.shards, run.run_dir = 3e-4, str(tmp_path / "data"), tmp_path / "run"
    freeze(tmp_path / "run", "mae_tiny", run)
    assert load_run(Records(tmp_path / "run").run_file) == ("mae_tiny", run)
    monkeypatch.setenv("DATA_SECRET", "hidden-place")
    run.data.shards = str(tmp_path / "hidden-place")
    with pytest.raises(UserError, match=r'run: "shards": ".*\*\*\*" holds a secret that the environment has too'):
        freeze(tmp_path / "run", "mae_tiny", run)
    assert "hidden-place" not in Records(tmp_path / "run").run_file.read_text()


SECRETS = (
    *(".env", ".env.local", "prod.pem", "id_rsa", "id_ed25519.pub", ".netrc", "credentials", "credentials.json"),
    *(
        "aws_credentials.csv",
        "hf_token",
        "token.txt",
        "my-token.json",
        "kubeconfig",
        "kube_config.yaml",
        "secrets.yaml",
    ),
    *(
        ".aws/config",
        ".ssh/known_hosts",
        ".kube/config",
        "deep/.env",
        "API_KEY.txt",
        "passwords.csv",
        ".pypirc",
        ".npmrc",
    ),
    *("server.key", "store.p12", "service-account-prod.json", ".git-credentials", ".docker/config.json"),
)
KEPT = (
    "tokens.py",
    "tokenizer.json",
    "mine/token_mixing.py",
    "secret_sauce.py",
    "environment.yml",
    "keys.md",
    "a/key.py",
)


@pytest.mark.parametrize("tracked", [True, False])
def test_what_looks_like_a_secret_stays_where_it_is(project, tmp_path, tracked):
    for name in (*SECRETS, *KEPT):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("hunter2")
    if tracked:
        git(project, "add", "--all", "--force", *SECRETS)
    code = tmp_path / "run" / "cluster" / "code"
    said = freeze_code(code, "mine:recipe")
    found = names(code)
    assert not found & {*SECRETS} and found >= {*KEPT}
    record = json.loads((code / "frozen.json").read_text())
    assert {str(project / name) for name in SECRETS} <= {*record["left_out"]}
    assert "left out" in said[0] and str(project / ".aws/config") in said[0]
    assert {str(project / name) for name in KEPT} <= {*record["untracked"]} and "git does not track" in said[1]


def test_links_out_of_the_tree_are_not_followed(project, tmp_path):
    outside = tmp_path / "home"
    outside.mkdir()
    words = " ".join(["dear", "diary"])  # which the code of this test, part of the frozen diff, has not
    (outside / "diary.txt").write_text(words)
    (project / "deep").mkdir()
    (project / "out.py").symlink_to(outside / "diary.txt")
    (project / "deep" / "folder").symlink_to(outside)
    (project / "gone.py").symlink_to(outside / "absent")
    (project / "inside.py").symlink_to(project / "mine.py")
    (project / ".env").write_text("private")
    (project / "harmless.txt").symlink_to(project / ".env")
    code = tmp_path / "run" / "cluster" / "code"
    freeze_code(code, "mine:recipe")
    left_out = json.loads((code / "frozen.json").read_text())["left_out"]
    for name in ("out.py", "deep/folder", "gone.py", "harmless.txt", ".env"):
        assert str(project / name) in left_out and not (code / name).exists()
    assert (code / "inside.py").read_text() == (project / "mine.py").read_text()
    assert not [path for path in code.glob("[!e]*") if path.is_file() and words in path.read_text(errors="replace")]
