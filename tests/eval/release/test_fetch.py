"""Releases from folders, archives and a real web server: whole and verified, or nothing."""

import base64
import io
import os
import shutil
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPMessage
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from released_runs import content, copy_of

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.eval.release import download
from eyespot.eval.release.download import Way, _Redirects
from eyespot.eval.release.fetch import fetched
from eyespot.eval.release.layout import digest_of

LOGIN = f"Basic {base64.b64encode(b'me:hunter 22').decode()}"


class Web:
    """A web server of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.logins: list[str | None] = []
        self.over = threading.Event()
        web = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *words: object) -> None:
                super().__init__(*words, directory=str(folder))

            def do_GET(self) -> None:
                web.asked.append(self.path)
                login = self.headers.get("Authorization")
                web.logins.append(login)
                if self.path.startswith("/moved/"):
                    self.send_response(302)
                    self.send_header("Location", self.path.removeprefix("/moved"))
                    self.end_headers()
                elif self.path.startswith("/to/"):  # /to/SCHEME/HOST/path
                    scheme, _, rest = self.path.removeprefix("/to/").partition("/")
                    self.send_response(302)
                    self.send_header("Location", f"{scheme}://{rest}" if scheme != "loop" else self.path + "x")
                    self.end_headers()
                elif self.path.startswith("/slow/"):  # a byte now and then, of the head or of the body
                    self.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"" if "head" in self.path else b"\r\n"))
                    while not web.over.wait(0.05):
                        self.wfile.write(b"x")
                elif self.path.startswith("/says/"):  # /says/503/path
                    self.send_error(int(self.path.split("/")[2]))
                elif self.path.startswith("/private/") and login != LOGIN:
                    self.send_error(401)
                elif self.path.startswith("/cut/"):  # the line goes dead after 10,000 bytes
                    data = (folder / self.path.removeprefix("/cut/")).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[:10_000])
                else:
                    super().do_GET()

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def web(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("web")
    copy_of(released, folder / "release")
    with tarfile.open(folder / "release.tar.gz", "w:gz") as archive:
        archive.add(released, "digits")
    (folder / "page.tar").write_text("<html>Sign in</html>")
    web = Web(folder)
    yield web
    web.over.set()
    web.server.shutdown()


def refuse(address: str, tmp_path: Path, words: str, kind: type[Exception] = UserError, **options) -> str:
    with pytest.raises(kind, match=words) as error:
        fetched(address, tmp_path / "pulled" / "here", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "pulled").exists() or not list((tmp_path / "pulled").iterdir())
    return str(error.value)


@pytest.mark.parametrize(
    "place", ["release", "release/", "release.tar.gz", "release.tar.gz?version=3", "moved/release"]
)
def test_from_the_web(released: Path, web: Web, tmp_path: Path, place: str):
    into = fetched(f"{web.uri}/{place}", tmp_path / "some" / "where", sha256=digest_of(released).upper())
    assert content(into) == content(released)
    assert [path.name for path in into.parent.iterdir()] == ["where"]
    assert {path.stat().st_mode & 0o777 for path in into.iterdir()} <= {0o644, 0o664, 0o600, 0o640}


def test_from_this_disk(released: Path, web: Web, tmp_path: Path):
    assert content(fetched(str(released), tmp_path / "a")) == content(released)
    assert content(fetched(str(web.folder / "release.tar.gz"), tmp_path / "b")) == content(released)


def test_what_the_web_does_not_have(web: Web, tmp_path: Path):
    refuse(f"{web.uri}/absent", tmp_path, "SHA256SUMS: the server answers 404")
    refuse(f"{web.uri}/absent.zip", tmp_path, "the server answers 404")
    refuse(f"{web.uri}/page.tar", tmp_path, "damaged or cut short")
    refuse("http://127.0.0.1:9/release", tmp_path, "the server cannot be reached", Outage)
    said = refuse("http://me:hunter22@127.0.0.1:9/release", tmp_path, r"http://\*\*\*@127", Outage)
    assert "hunter22" not in said


@pytest.mark.parametrize(("code", "kind"), [(503, Outage), (429, Outage), (404, UserError), (410, UserError)])
def test_a_server_that_is_busy_is_no_wrong_input(web: Web, tmp_path: Path, code: int, kind: type):
    refuse(f"{web.uri}/says/{code}/release.tar.gz", tmp_path, f"the server answers {code}", kind)


def test_a_login_goes_to_the_host_it_is_for_and_nowhere_else(web: Web, released: Path, tmp_path: Path):
    copy_of(released, web.folder / "private" / "release")
    host = web.uri.removeprefix("http://")
    refuse(f"{web.uri}/private/release", tmp_path, "the server answers 401")
    assert fetched(f"http://me:hunter%2022@{host}/private/release", tmp_path / "mine").is_dir()
    web.logins.clear()
    fetched(f"http://me:hunter%2022@{host}/moved/release", tmp_path / "moved")
    assert web.logins[::2] == [LOGIN] * (len(web.logins) // 2) and set(web.logins[1::2]) == {None}


def test_a_line_that_goes_dead(web: Web, tmp_path: Path):
    refuse(f"{web.uri}/cut/release.tar.gz", tmp_path, "archive broke off", Outage)
    refuse(f"{web.uri}/cut/release", tmp_path, "model.safetensors broke off", Outage)


@pytest.mark.parametrize("where", ["head", "body"])
@pytest.mark.parametrize("name", ["release.tar.gz", "release"])
def test_a_server_that_sends_a_byte_now_and_then(web: Web, tmp_path: Path, monkeypatch, where: str, name: str):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.4)
    begin = time.monotonic()
    refuse(f"{web.uri}/slow/{where}/{name}", tmp_path, "too slow", Outage)
    assert time.monotonic() - begin < 5


def test_a_server_that_sends_us_elsewhere(web: Web, released: Path, tmp_path: Path):
    here = web.uri.removeprefix("http://")
    port = here.rpartition(":")[2]
    elsewhere = f"{web.uri}/to/http/localhost:{port}/release"
    refuse(elsewhere, tmp_path, "sends us to http://localhost:.*, another host; .* --allow-redirect")
    assert content(fetched(elsewhere, tmp_path / "trusted", allow_redirect=True)) == content(released)
    assert content(fetched(f"{web.uri}/to/http/{here}/release", tmp_path / "same")) == content(released)
    for scheme in ("file", "ftp", "data", "gopher"):
        refuse(f"{web.uri}/to/{scheme}/localhost/etc/passwd", tmp_path, f"{scheme}://.*(no web address|not allowed)")
        refuse(
            f"{web.uri}/to/{scheme}/localhost/etc/passwd", tmp_path, "no web address|not allowed", allow_redirect=True
        )
    refuse(f"{web.uri}/to/loop/release", tmp_path, "the server answers 302")
    refuse(
        f"{web.uri}/to/http/me:hunter22@localhost/release",
        tmp_path,
        r"sends us to http://\*\*\*@localhost, another host",
    )


@pytest.mark.parametrize("trusted", [False, True])
def test_never_from_https_to_http(trusted: bool):
    handler, asked = _Redirects(Way("it", trusted), "https://host/a"), urllib.request.Request("https://host/a")
    with pytest.raises(UserError, match="anybody on the way could change"):
        handler.redirect_request(asked, io.BytesIO(), 302, "moved", HTTPMessage(), "http://host/a")


def test_too_large(web: Web, tmp_path: Path):
    refuse(f"{web.uri}/release.tar.gz", tmp_path, "too large", max_bytes=10_000)
    refuse(f"{web.uri}/release", tmp_path, "model.safetensors has .* bytes, more than", max_bytes=500_000)


def test_another_release_than_was_meant(released: Path, other: Path, tmp_path: Path):
    refuse(str(other), tmp_path, "is another release: .* --sha256 says", sha256=digest_of(released))


def test_damage_on_the_way(web: Web, released: Path, tmp_path: Path):
    damaged = copy_of(released, web.folder / "damaged")
    os.truncate(damaged / "model.safetensors", 100_000)
    refuse(f"{web.uri}/damaged", tmp_path, r"^release http://.*/damaged: model.safetensors is damaged")
    shutil.copyfile(released / "model.safetensors", damaged / "model.safetensors")
    assert fetched(f"{web.uri}/damaged", tmp_path / "mended").is_dir()


def test_names_of_a_list_do_not_leave_the_folder(web: Web, released: Path, tmp_path: Path):
    copy_of(released, web.folder / "hostile")
    with (web.folder / "hostile" / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  ../release.tar.gz\n")
    before = len(web.asked)
    refuse(f"{web.uri}/hostile", tmp_path, "which no release has")
    assert web.asked[before:] == ["/hostile/SHA256SUMS"]


def test_links_in_a_folder(released: Path, tmp_path: Path):
    (tmp_path / "linked").mkdir()
    for path in released.iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    refuse(str(tmp_path / "linked"), tmp_path, "is no regular file")


def test_wrong_words(released: Path, tmp_path: Path):
    refuse(
        str(tmp_path / "absent"), tmp_path, "name one, an http.* address, hf://ORG/NAME of a hub, or models:/NAME@ALIAS"
    )
    refuse("ftp://host/release", tmp_path, "name one, an http")
    (tmp_path / "kept").mkdir()
    with pytest.raises(UserError, match="kept: exists already"):
        fetched(str(released), tmp_path / "kept")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        fetched(str(released), tmp_path / "file" / "inside")


@pytest.mark.parametrize(
    "address", ["http://[::1/x.tar", "http://127.0.0.1:99999999/x.tar", "http://127.0.0.1:a/x", "http://"]
)
def test_what_is_no_web_address(address: str, tmp_path: Path):
    with pytest.raises(UserError) as caught:
        fetched(address, tmp_path / "out")
    assert "\n" not in str(caught.value) and address in str(caught.value)
