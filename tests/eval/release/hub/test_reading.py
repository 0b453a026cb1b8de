"""Releases that come from a hub: at one commit, whole and verified, or nothing; and the token goes to the hub alone."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
from fake_hub import TOKEN, FakeHub
from released_runs import content

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.eval.release import download
from eyespot.eval.release.fetch import cached_from_hub, fetched
from eyespot.eval.release.hub.reading import pinned
from eyespot.eval.release.layout import digest_of

HERE = "hf://people/digits"


@pytest.fixture
def repository(hub: FakeHub, released: Path):
    return hub.make("people/digits", content(released), private=True)


def refuse(tmp_path: Path, words: str, address: str = HERE, kind: type[Exception] = UserError, **options) -> str:
    with pytest.raises(kind, match=words) as error:
        fetched(address, tmp_path / "pulled" / "here", **options)
    said = str(error.value)
    assert "\n" not in said and TOKEN not in said and "secret-of-the-cdn" not in said and len(said) < 400
    assert not (tmp_path / "pulled").exists() or not list((tmp_path / "pulled").iterdir())
    return said


def test_a_branch_a_tag_and_a_commit(hub: FakeHub, repository, released: Path, other: Path, tmp_path: Path):
    first = repository.branches["main"]
    repository.tags["v1"] = first
    second = repository.commit("next/one", content(other), "another")
    for place, (revision, wanted) in enumerate(
        {"": released, "@v1": released, f"@{first}": released, "@next/one": other, f"@{second[:9]}": other}.items()
    ):
        assert content(fetched(f"{HERE}{revision}", tmp_path / str(place))) == content(wanted)
    assert pinned(f"{HERE}@v1").revision == first and str(pinned(HERE)) == f"{HERE}@{first}"
    assert not hub.tokens_at_cdn and hub.count("GET /cdn/.*")
    with hub.recorded() as asked:
        fetched(f"{HERE}@{first}", tmp_path / "by-commit")
    assert not [line for line in asked if "/api/" in line]  # a commit needs no question


def test_a_host_that_sends_to_itself_gets_no_token(hub: FakeHub, repository, released: Path, tmp_path: Path):
    hub.fail("GET /cdn/.*", times=2, to_itself=True)
    hub.fail("GET .*/README.md", times=1, to_itself=True)  # the hub does too, and may have it again
    assert content(fetched(HERE, tmp_path / "a")) == content(released)
    assert hub.count("GET /cdn/.*") == 4 and hub.count("GET .*/README.md") == 2 and not hub.tokens_at_cdn


def test_the_branch_moves_while_it_is_fetched(hub: FakeHub, repository, released: Path, other: Path, tmp_path: Path):
    hub.fail("GET .*/SHA256SUMS", times=1, after=lambda: repository.commit("main", content(other), "another"))
    assert content(fetched(HERE, tmp_path / "a")) == content(released)
    hub.fail("GET .*/README.md", times=1, after=lambda: (repository.trees.clear(), repository.branches.clear()))
    refuse(tmp_path, "the repository has no branch, tag or commit [0-9a-f]{40}")


def test_only_what_the_list_names_is_asked_for(hub: FakeHub, released: Path, tmp_path: Path):
    hub.make("people/digits", content(released) | {"evil.py": b"1", "pytorch_model.bin": b"2"})
    with hub.recorded() as asked:
        assert content(fetched(HERE, tmp_path / "a", sha256=digest_of(released))) == content(released)
    assert not [line for line in asked if "evil" in line or ".bin" in line]


def test_lists_that_lead_elsewhere(hub: FakeHub, repository, tmp_path: Path):
    files = dict(repository.trees[repository.branches["main"]])
    for name in ("../evil", "/etc/passwd", "run.py", "a\\b"):
        repository.commit("main", files | {"SHA256SUMS": f"{'0' * 64}  {name}\n".encode()}, "evil")
        refuse(tmp_path, "which no release has")
    repository.commit("main", files | {"SHA256SUMS": b"\xff\xfe"}, "evil")
    refuse(tmp_path, "SHA256SUMS is no text")
    repository.commit("main", files | {"model.safetensors": files["model.safetensors"][:-1] + b"x"}, "flipped")
    refuse(tmp_path, "model.safetensors is damaged or swapped")


def test_what_is_no_release(hub: FakeHub, tmp_path: Path):
    files = {"config.json": b"{}", "model.safetensors": b""}
    hub.make("timm/resnet18", files)
    hub.make("people/bert", files, library="transformers")
    hub.make("people/else", library="")
    refuse(tmp_path, "no SHA256SUMS, .* a model of timm: name it hf-hub:timm/resnet18", "hf://timm/resnet18")
    refuse(tmp_path, "a model of transformers, which eyespot does not load", "hf://people/bert")
    refuse(tmp_path, "no SHA256SUMS, so it is no release; make one", "hf://people/else")


def test_what_is_not_to_be_seen(hub: FakeHub, repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refuse(tmp_path, "no branch, tag or commit v9", f"{HERE}@v9")
    refuse(tmp_path, "no such repository, or the account of the token that is set may not see it", "hf://people/none")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    refuse(tmp_path, "does not take the token that is set")
    monkeypatch.delenv("HF_TOKEN")
    refuse(tmp_path, "no such repository, or it is private: set HF_TOKEN")
    repository.private, repository.gated = False, True
    refuse(tmp_path, f"is gated: ask for access at {hub.url}/people/digits, and set HF_TOKEN")
    hub.fail("GET /api/.*", 403)
    refuse(tmp_path, "is not for everybody")


def test_a_hub_that_fails_for_a_moment(hub: FakeHub, repository, released: Path, tmp_path: Path):
    hub.fail("GET /api/.*", 503, times=2)
    hub.fail("GET /cdn/.*", times=1, cut=1000)
    hub.fail("GET .*/config.json", 429, headers={"Retry-After": "1"}, times=1)
    assert content(fetched(HERE, tmp_path / "a")) == content(released)


@pytest.mark.parametrize(
    ("pattern", "fault", "words", "kind"),
    [
        ("GET /api/.*", {"status": 503}, "the server answers 503", Outage),
        ("GET /api/.*", {"status": 429, "headers": {"Retry-After": "900"}}, "429 .*it asks to wait 900 s", Outage),
        ("GET /cdn/.*", {"cut": 1000}, "broke off after 1,000 of", Outage),
        ("GET /cdn/.*", {"status": 403}, "is not|may not", UserError),
        ("GET /api/.*", {"status": 200, "body": b"<html>"}, "answers as no model hub does", UserError),
        ("GET /api/.*", {"status": 200, "body": b'{"sha": "main"}'}, "names no commit", UserError),
        ("GET /api/.*", {"status": 200, "body": b"[" * 100_000}, "answers as no model hub does", UserError),
        (
            "GET .*/README.md",
            {"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}},
            "README.md: .* 404",
            UserError,
        ),
        ("GET .*/README.md", {"status": 302, "headers": {"Location": "file:///etc/passwd"}}, "not allowed", UserError),
        ("GET .*/README.md", {"status": 400, "headers": {"X-Error-Message": TOKEN}}, "answers 400", UserError),
    ],
)
def test_what_the_hub_says_in_one_line(hub: FakeHub, repository, tmp_path: Path, pattern, fault, words, kind):
    hub.fail(pattern, **({"status": 0} | fault))
    refuse(tmp_path, words, kind=kind)


def test_too_large_too_slow_and_nobody_there(hub: FakeHub, repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refuse(tmp_path, "model.safetensors has .* bytes, more than", max_bytes=200_000)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.3)
    hub.fail("GET /api/.*", pause=2.0, times=5)
    refuse(tmp_path, "too slow|broke off|cannot be reached", kind=Outage)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    refuse(tmp_path, "the server cannot be reached", kind=Outage)


def test_a_repository_that_was_renamed(hub: FakeHub, released: Path, tmp_path: Path):
    hub.make("people/numbers", content(released), private=True)
    hub.moved["people/digits"] = "people/numbers"
    assert content(fetched(HERE, tmp_path / "a")) == content(released)


def test_offline_it_comes_from_the_clients_cache(hub: FakeHub, repository, released: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refuse(tmp_path, "HF_HUB_OFFLINE is set, .* has no SHA256SUMS of it; .*hf download people/digits --revision main")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    place = Path(huggingface_hub.snapshot_download("people/digits", cache_dir=tmp_path / "hub-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with hub.recorded() as asked:
        assert content(fetched(HERE, tmp_path / "a")) == content(released)
        assert pinned(HERE).revision == repository.branches["main"]
    assert not asked and not [path for path in (tmp_path / "a").iterdir() if path.is_symlink()]
    refuse(tmp_path, "too large", max_bytes=1000)
    (place / "README.md").unlink()
    refuse(tmp_path, "has no README.md of it")


def test_a_cache_by_content(hub: FakeHub, repository, released: Path, tmp_path: Path, monkeypatch):
    cache, first = tmp_path / "cache", repository.branches["main"]
    cache.mkdir()
    folder, at = cached_from_hub(HERE, cache)
    assert folder == cache / digest_of(released) and str(at) == f"{HERE}@{first}"
    repository.commit("copy", dict(repository.trees[first]), "the same again")
    with hub.recorded() as asked:
        assert cached_from_hub(HERE, cache) == (folder, at) and cached_from_hub(str(at), cache) == (folder, at)
    assert len(asked) == 1 and "/api/" in asked[0]
    assert cached_from_hub(f"{HERE}@copy", cache)[0] == folder
    card = (folder / "README.md").read_bytes()
    (folder / "README.md").write_bytes(card + b"x")
    repository.commit("third", dict(repository.trees[first]), "and again")  # unknown, but its content is here
    with pytest.raises(UserError, match=r"README\.md is damaged or swapped"):
        cached_from_hub(f"{HERE}@third", cache)
    (folder / "README.md").write_bytes(card)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with hub.recorded() as asked:
        assert cached_from_hub(HERE, cache) == (folder, at) and not asked
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        cached_from_hub(f"{HERE}@v9", cache)
    shutil.rmtree(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert cached_from_hub(str(at), cache) == (folder, at)
    assert sorted(path.name for path in cache.iterdir()) == sorted([digest_of(released), "hub"])
