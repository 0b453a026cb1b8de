"""Releases pushed by the hub's real client: all of it in one commit, once, and over nothing that somebody wants."""

import logging
import os
import subprocess
from pathlib import Path

import huggingface_hub
import pytest
from fake_hub import READ_ONLY, TOKEN, FakeHub
from huggingface_hub.utils import are_progress_bars_disabled
from released_runs import bare_python, content, copy_of

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.eval.release.download import TIMEOUT_SECONDS
from eyespot.eval.release.hub.push import push

HERE = "hf://people/digits"


def refuse(folder: Path, words: str, address: str = HERE, kind: type[Exception] = UserError, **options) -> str:
    with pytest.raises(kind, match=words) as error:
        push(folder, address, **options)
    said = str(error.value)
    assert "\n" not in said and len(said) < 400 and TOKEN not in said and "secret-of-the-cdn" not in said
    return said


def tree(hub: FakeHub, revision: str = "main", repo: str = "people/digits") -> dict[str, bytes]:
    found = hub.repositories[repo]
    files = dict(found.trees[found.find(revision) or ""])
    files.pop(".gitattributes")
    return files


def test_a_push_is_one_commit_and_the_same_again_is_none(hub: FakeHub, released: Path):
    done = push(released, HERE, tag="v1")
    found = hub.repositories["people/digits"]
    assert (
        done.new
        and str(done.address) == f"{HERE}@{found.branches['main']}"
        and found.tags == {"v1": done.address.commit}
    )
    assert tree(hub) == content(released) and found.private
    assert len(found.messages) == 2 and found.messages[1] == f"{released.name}-run, mae_tiny, step 12"
    with hub.recorded() as asked:
        again = push(released, HERE, tag="v1")
    assert not again.new and again.address == done.address and not any("/commit/" in line for line in asked)
    assert done.page == f"{hub.url}/people/digits/tree/{done.address.commit}"


def test_a_push_over_another_release(hub: FakeHub, released: Path, other: Path):
    first = push(released, HERE, tag="v1").address
    refuse(other, r"holds another release; say --replace .*, or push to a branch: hf://people/digits@NAME")
    refuse(other, "--tag v1: is there already and means commit", tag="v1", replace=True)
    refuse(other, "v1 is a tag, and a push goes to a branch", f"{HERE}@v1")
    beside = push(other, f"{HERE}@second").address
    assert tree(hub, "second") == content(other) and tree(hub) == content(released)
    found = hub.repositories["people/digits"]
    found.commit("main", found.trees[first.revision] | {"old.bin": b"0"}, "by hand")
    push(other, HERE, replace=True, tag="v2")
    assert tree(hub) == content(other) and tree(hub, "v1") == content(released) and beside != first
    hub.make("people/photos", {"me.jpg": b"\0"})
    refuse(other, "is public: everybody could read", "hf://people/photos")
    refuse(other, "holds me.jpg and is no release", "hf://people/photos", public=True)


def test_who_may_see_it(hub: FakeHub, released: Path):
    push(released, HERE, public=True)
    assert not hub.repositories["people/digits"].private
    refuse(released, "is public: .*say --public if that is meant")
    push(released, HERE, public=True)
    hub.make("people/mine", private=True)
    refuse(released, "is private; leave out --public, or change it first: http", "hf://people/mine", public=True)


def test_nothing_is_pushed_that_does_not_verify(hub: FakeHub, released: Path, tmp_path: Path):
    damaged = copy_of(released, tmp_path / "damaged")
    with (damaged / "README.md").open("a") as file:
        file.write("x")
    refuse(damaged, "README.md is damaged or swapped")
    refuse(tmp_path / "absent", "no such folder")
    assert not hub.asked


def test_whom_the_hub_refuses(hub: FakeHub, released: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    assert "hf_x" not in refuse(released, "does not take the token that is set")
    monkeypatch.setenv("HF_TOKEN", READ_ONLY)
    refuse(released, r"the account of the token that is set may not do that \(403\)")
    monkeypatch.delenv("HF_TOKEN")
    refuse(released, "which account. Set HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refuse(released, "HF_HUB_OFFLINE is set")


@pytest.mark.parametrize(
    "address",
    "hf://digits hf://a/b/c hf://datasets/a/b hf://a/b@ hf://a/b@../x hf://a/../b hf://a/b--c hf://a/b.git hf:///b"
    f" hf://a/{'b' * 100} hf://a/b@x~1 hf://a/b@{'0' * 40} hf://a/b@refs/pr/1".split(),
)
def test_addresses_that_are_none(address: str, hub: FakeHub, released: Path):
    refuse(released, "write it as|hubs allow names|git allows no|goes to a branch", address)
    assert not hub.asked


def test_a_hub_that_fails_for_a_moment_is_asked_again(hub: FakeHub, released: Path):
    hub.fail(r"GET /api/models/people/digits/refs", 503, times=1)
    hub.fail(r"PUT /cdn/.*", 500, times=1)
    hub.fail(r"POST /api/.*/commit/main", 429, headers={"Retry-After": "1"}, times=1)
    assert push(released, HERE).new and len(hub.repositories["people/digits"].messages) == 2
    assert hub.count(r"POST /api/.*/commit/main") == 2


def test_an_answer_that_is_lost_makes_no_second_commit(hub: FakeHub, released: Path):
    hub.fail(r"POST /api/.*/commit/main", 502, times=1, after=lambda: None)
    assert not push(released, HERE).new
    assert len(hub.repositories["people/digits"].messages) == 2 and tree(hub) == content(released)
    hub.fail(r"POST /api/.*/branch/next", 504, times=1, after=lambda: None)
    assert not push(released, f"{HERE}@next").new


@pytest.mark.parametrize("lost", ["POST /api/.*/branch/next", "GET /api/models/.*/revision/next"])
def test_a_push_to_a_new_branch_that_broke_off_is_done_again(hub: FakeHub, released: Path, other: Path, lost: str):
    push(other, HERE)
    hub.fail(lost, 504, times=1, after=lambda: None)  # by the same command
    hub.fail("POST /api/.*/commit/next", 403, times=1)  # by the next one
    refuse(released, "may not do that", f"{HERE}@next")
    assert push(released, f"{HERE}@next").new
    assert tree(hub, "next") == content(released) and tree(hub) == content(other)
    refuse(other, "holds another release", f"{HERE}@next")


def test_a_commit_of_somebody_else_in_between_is_not_lost(hub: FakeHub, released: Path):
    found = hub.make("people/digits", private=True)
    hub.fail(
        r"POST /people/digits.git/info/lfs/objects/batch",
        times=1,
        after=lambda: found.commit("main", found.trees[found.branches["main"]] | {"theirs.txt": b"1"}, "theirs"),
    )
    refuse(released, "holds theirs.txt and is no release")
    assert "theirs.txt" in tree(hub)


@pytest.mark.parametrize(
    ("pattern", "fault", "words", "kind"),
    [
        ("GET .*", {"status": 503}, "does not answer as it should .503", Outage),
        ("GET .*", {"status": 429, "headers": {"Retry-After": "7200"}}, "asks to wait 7,200 s", Outage),
        ("GET .*/refs", {"status": 200, "body": b"<html>"}, "answers as no model hub does .JSON", UserError),
        (
            "POST .*/commit/.*",
            {"status": 402, "body": b'{"error": "Private storage is full"}'},
            "storage is full",
            UserError,
        ),
        (
            "POST /api/validate-yaml",
            {"status": 400, "body": b'{"errors": [{"message": "odd"}]}'},
            "Invalid metadata",
            UserError,
        ),
        ("GET .*/refs", {"cut": 20}, "does not answer as it should", Outage),
    ],
)
def test_what_the_hub_says_in_one_line(hub: FakeHub, released: Path, pattern, fault, words, kind):
    hub.fail(pattern, **({"status": 0} | fault))
    refuse(released, words, kind=kind)


def test_the_hub_holds_what_lies_here(hub: FakeHub, released: Path):
    def swap() -> None:
        found = hub.repositories["people/digits"]
        found.trees[found.branches["main"]]["README.md"] += b"x"

    hub.fail(r"POST /api/.*/commit/main", times=1, after=swap)
    refuse(released, r"at [0-9a-f]{40} the hub holds something else")


def test_the_client_is_left_as_it_was(hub: FakeHub, released: Path):
    before, loggers = huggingface_hub.utils.get_session().timeout, ("huggingface_hub", "httpx")
    levels = [logging.getLogger(name).level for name in loggers]
    assert before != TIMEOUT_SECONDS and logging.CRITICAL not in levels and not are_progress_bars_disabled()
    push(released, HERE)
    assert huggingface_hub.utils.get_session().timeout == before
    assert [logging.getLogger(name).level for name in loggers] == levels and not are_progress_bars_disabled()


BARE = """
import importlib.util
assert importlib.util.find_spec("eyespot") is None
import timm, torch
from safetensors.torch import load_file
golden = load_file(GOLDEN)
encoder = timm.create_model("hf-hub:people/digits@v1", pretrained=True).eval()
with torch.inference_mode():
    tokens = encoder.forward_features(golden["input"])
assert torch.equal(tokens[:, 0], golden["cls"])
print("equal")
"""


@pytest.mark.thorough
def test_timm_loads_it_in_a_process_that_knows_no_eyespot(hub: FakeHub, released: Path, tmp_path: Path):
    push(released, HERE, tag="v1")
    python = bare_python(tmp_path / "bare", "timm")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }
    code = BARE.replace("GOLDEN", repr(str(released / "golden.safetensors")))
    done = subprocess.run(
        [python, "-I", "-c", code], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0 and done.stdout == "equal\n", done.stderr
