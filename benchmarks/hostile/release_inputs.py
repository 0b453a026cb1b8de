"""Releases of strangers, for ``eyespot pull``: folders, archives, web servers."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hostile.accounts import tar_of
from hostile.case import Case, Room, Wants, Words
from hostile.serving import Answer, closed_port, dripping, endless, files, plain, raw, served
from hostile.weight_inputs import CONTENTS

Files = dict[str, bytes]


def held(room: Room) -> Files:
    return {path.name: path.read_bytes() for path in sorted(room.take("release").iterdir())}


def summed(content: Files) -> Files:
    """With a SHA256SUMS that fits, as a liar would write it."""
    content.pop("SHA256SUMS", None)
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(content.items())]
    return {**content, "SHA256SUMS": "".join(lines).encode()}


def cases() -> list[Case]:
    """All of this file."""
    return [*_folders(), *_archives(), *_servers(), *_addresses()]


def _case(name: str, wants: Wants, make: Any, says: str = "", **options: Any) -> Case:
    return Case(kind="releases", name=name, wants=wants, make=make, says=says, **({"evil": "evil"} | options))


def _pulled(address: str, *more: str) -> Sequence[Words]:
    return (["pull", address, "pulled", *more],)


def of_folder(change: Callable[[Files], Files | None], fill: Callable[[Path], Any] | None = None) -> Any:
    def make(room: Room) -> Sequence[Words]:
        content = held(room)
        content = change(content) or content
        (room / "theirs").mkdir()
        for name, data in content.items():
            (room / "theirs" / name).write_bytes(data)
        if fill is not None:
            fill(room / "theirs")
        return _pulled("theirs")

    return make


def of_json(name: str, change: Callable[[dict[str, Any]], Any]) -> Any:
    def spoil(content: Files) -> Files:
        values = json.loads(content[name])
        text = change(values)
        content[name] = text.encode() if isinstance(text, str) else json.dumps(values).encode()
        if name == "config.json":
            content["provenance.json"] = content["provenance.json"]
        return summed(content)

    return of_folder(spoil)


def provenance(**values: Any) -> Any:
    return of_json("provenance.json", lambda said: said.update(values))


def config(**values: Any) -> Any:
    return of_json("config.json", lambda said: said.update(values))


def weights(name: str) -> Any:
    def spoil(content: Files) -> Files:
        content["model.safetensors"] = CONTENTS[name][0](content["model.safetensors"])
        said = json.loads(content["provenance.json"])
        said["weights_sha256"] = hashlib.sha256(content["model.safetensors"]).hexdigest()
        content["provenance.json"] = json.dumps(said).encode()
        return summed(content)

    return of_folder(spoil)


def _folders() -> list[Case]:

    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    found: dict[str, tuple[Wants, Any]] = {
        "sound": ("taken", of_folder(summed)),
        "a-file-flipped": ("refused", of_folder(lambda c: c | {"README.md": c["README.md"] + b"x"})),
        "a-file-more": ("refused", of_folder(lambda c: c | {"evil.py": b"x"})),
        "a-file-less": ("refused", of_folder(lambda c: {n: d for n, d in c.items() if n != "golden.safetensors"})),
        "no-sums": ("refused", of_folder(lambda c: {n: d for n, d in c.items() if n != "SHA256SUMS"})),
        "sums-go-up": ("refused", of_folder(lambda c: c | {"SHA256SUMS": c["SHA256SUMS"] + b"0" * 64 + b"  ../x\n"})),
        "sums-nothing": ("refused", of_folder(lambda c: c | {"SHA256SUMS": b""})),
        "sums-not-text": ("refused", of_folder(lambda c: c | {"SHA256SUMS": b"\xff" * 100})),
        "sums-escapes": ("refused", of_folder(lambda c: c | {"SHA256SUMS": b"\x1b[31m" + b"0" * 64 + b"  x\n"})),
        "sums-of-40-mb": ("refused", of_folder(lambda c: c | {"SHA256SUMS": c["SHA256SUMS"] * 100_000})),
        "a-link": ("refused", of_folder(summed, lambda folder: (folder / "model.onnx").symlink_to("/etc/passwd"))),
        "a-pipe": ("refused", of_folder(summed, lambda folder: os.mkfifo(folder / "model.onnx"))),
        "a-folder-inside": ("refused", of_folder(summed, lambda folder: (folder / "more").mkdir())),
        "a-pickle": ("refused", of_folder(lambda c: summed(c | {"pytorch_model.bin": b"\x80\x04."}))),
        "provenance-list": ("refused", of_json("provenance.json", lambda said: "[]")),
        "provenance-deep": ("refused", of_json("provenance.json", lambda said: deep)),
        "provenance-nothing": ("refused", of_json("provenance.json", lambda said: "")),
        "provenance-step-text": ("refused", provenance(step="many")),
        "provenance-step-null": ("refused", provenance(step=None)),
        "provenance-step-10^30": ("either", provenance(step=10**30)),
        "provenance-name-list": ("refused", provenance(name=["x"])),
        "provenance-name-escapes": ("either", provenance(name="\x1b[31mred\x07")),
        "provenance-recipe-escapes": ("either", provenance(recipe="\x1b]0;x\x07")),
        "provenance-recipe-null": ("refused", provenance(recipe=None)),
        "provenance-input-list": ("refused", provenance(input=[1])),
        "provenance-format-99": ("refused", provenance(format="eyespot-release/99")),
        "provenance-data-text": ("either", provenance(data="x")),
        "provenance-licence-other": ("refused", provenance(license="mit")),
        "config-architecture-5": ("refused", config(architecture=5)),
        "config-architecture-other": ("refused", config(architecture="resnet18")),
        "config-architecture-giant": ("refused", config(architecture="vit_giant_patch14_224")),
        "config-args-10^7": ("refused", config(model_args={"embed_dim": 10**7})),
        "config-args-depth": ("refused", config(model_args={"depth": 10**6})),
        "config-no-cfg": ("refused", config(pretrained_cfg=None)),
        "config-deep": ("refused", of_json("config.json", lambda said: deep)),
        "golden-nothing": ("refused", of_folder(lambda c: summed(c | {"golden.safetensors": b""}))),
        "golden-of-weights": (
            "refused",
            of_folder(lambda c: summed(c | {"golden.safetensors": c["model.safetensors"]})),
        ),
        "card-escapes": ("either", of_folder(lambda c: summed(c | {"README.md": b"\x1b[31m\xff"}))),
    }
    chosen = ("pickle", "cut", "nothing", "one-nan", "int8", "header-2^63", "shape-2^62", "a-tensor-more", "one-tensor")
    listed = [_case(f"folder-{name}", wants, make, _tidy(name)) for name, (wants, make) in found.items()]
    return [*listed, *(_case(f"folder-weights-{name}", "refused", weights(name), "theirs") for name in chosen)]


def _tidy(name: str) -> str:
    return "" if name == "sound" else "theirs"


def archive(name: str, content: Callable[[Files], bytes]) -> Any:
    def make(room: Room) -> Sequence[Words]:
        (room / name).write_bytes(content(summed(held(room))))
        return _pulled(name)

    return make


def tar(change: Callable[[Files], list[tuple[Any, bytes]]], **options: Any) -> Any:
    return archive("theirs.tar", lambda content: tar_of(change(content), **options))


def with_link(kind: bytes, name: str, target: str) -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return tar(lambda content: [(info, b""), *content.items()])


def zipped(change: Callable[[Files], Files], **options: Any) -> Any:
    def content(given: Files) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
            for name, data in change(given).items():
                out.writestr(name, data)
        return file.getvalue()

    return archive("theirs.zip", content)


def named_pax(content: Files) -> list[tuple[Any, bytes]]:
    info = tarfile.TarInfo("README.md")
    info.pax_headers = {"path": "../evil"}
    return [(info, b"x"), *content.items()]


def huge_header(content: Files) -> bytes:
    info = tarfile.TarInfo("README.md")
    info.pax_headers = {"comment": "x" * (200 << 20)}
    return gzip.compress(info.tobuf(tarfile.PAX_FORMAT), 1)


def zeros(content: Files) -> bytes:
    file = io.BytesIO()
    with gzip.open(file, "w", compresslevel=9) as out:
        info = tarfile.TarInfo("model.safetensors")
        info.size = 3 << 30
        out.write(info.tobuf())
        for _ in range(300):
            out.write(bytes(10 << 20))
    return file.getvalue()


def _archives() -> list[Case]:

    def chain(content: Files) -> bytes:
        name = tarfile.TarInfo("././@LongLink")
        name.type, name.size = tarfile.GNUTYPE_LONGNAME, 4
        return (name.tobuf(tarfile.GNU_FORMAT) + b"abc\0".ljust(512, b"\0")) * 3000

    found: dict[str, tuple[Wants, Any]] = {
        "sound.tar": ("taken", tar(lambda c: list(c.items()))),
        "sound.zip": ("taken", zipped(lambda c: c)),
        "in-one-folder": ("taken", tar(lambda c: [(f"r/{n}", d) for n, d in c.items()])),
        "dot-slash": ("taken", tar(lambda c: [(f"./{n}", d) for n, d in c.items()])),
        "goes-up": ("refused", tar(lambda c: [("../evil", b"x"), *c.items()])),
        "goes-up-by-pax": ("refused", tar(named_pax, format=tarfile.PAX_FORMAT)),
        "absolute": ("refused", tar(lambda c: [("/tmp/evil", b"x"), *c.items()])),
        "link": ("refused", with_link(tarfile.SYMTYPE, "README.md", "/etc/passwd")),
        "hard-link": ("refused", with_link(tarfile.LNKTYPE, "README.md", "/etc/passwd")),
        "device": ("refused", with_link(tarfile.CHRTYPE, "README.md", "")),
        "pipe": ("refused", with_link(tarfile.FIFOTYPE, "README.md", "")),
        "twice": ("refused", tar(lambda c: [*c.items(), ("README.md", b"x")])),
        "100000-members": ("refused", tar(lambda c: [(f"d{n}/README.md", b"") for n in range(100_000)])),
        "100000-folders": ("refused", tar(lambda c: [(_folder(f"d{n}"), b"") for n in range(100_000)])),
        "name-of-escapes": ("refused", tar(lambda c: [("\x1b[31mx", b"x"), *c.items()])),
        "cut": ("refused", archive("theirs.tar", lambda c: tar_of(list(c.items()))[:5000])),
        "cut.gz": ("refused", archive("theirs.tar.gz", lambda c: gzip.compress(tar_of(list(c.items())))[:5000])),
        "gz-of-gz": (
            "refused",
            archive("theirs.tar.gz", lambda c: gzip.compress(gzip.compress(tar_of(list(c.items()))))),
        ),
        "gz-bomb": ("refused", archive("theirs.tar.gz", zeros)),
        "header-of-200-mb": ("refused", archive("theirs.tar.gz", huge_header)),
        "a-chain-of-long-names": ("refused", archive("theirs.tar", chain)),
        "nothing": ("refused", archive("theirs.tar", lambda c: b"")),
        "noise": ("refused", archive("theirs.tar", lambda c: bytes(range(256)) * 99)),
        "web-page": ("refused", archive("theirs.tar.gz", lambda c: b"<html>Sign in</html>")),
        "zip-goes-up": ("refused", zipped(lambda c: {"../evil": b"x", **c})),
        "zip-backslash": ("refused", zipped(lambda c: {"..\\evil": b"x", **c})),
        "zip-bomb": ("refused", zipped(lambda c: c | {"README.md": bytes(400 << 20)})),
        "zip-cut": ("refused", archive("theirs.zip", lambda c: b"PK\x03\x04" + bytes(50))),
        "zip-of-nothing": ("refused", zipped(lambda c: {})),
    }
    return [
        _case(f"archive-{name}", wants, make, "theirs", megabytes=1600 if name == "zip-bomb" else 300, evil="evil")
        for name, (wants, make) in found.items()
    ]


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def server(answer: Callable[[Files], Answer], path: str = "/theirs.tar", *more: str) -> Any:
    return lambda room: _pulled(served(answer(summed(held(room)))) + path, *more)


def whole(content: Files) -> bytes:
    return tar_of(list(content.items()))


def redirect(target: Callable[[Room], str]) -> Any:
    return lambda room: _pulled(served(plain(b"", 302, Location=target(room))) + "/theirs.tar")


def loop(content: Files) -> Answer:
    return plain(b"", 302, Location="/theirs.tar")


def local(room: Room) -> str:
    (room / "theirs.tar").write_bytes(tar_of(list(summed(held(room)).items())))
    return f"file://{room / 'theirs.tar'}"


def another_host(room: Room) -> str:
    content = tar_of(list(summed(held(room)).items()))
    return served(plain(content)).replace("127.0.0.1", "localhost") + "/theirs.tar"


def _servers() -> list[Case]:

    cut = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nshort"
    many = "HTTP/1.1 200 OK\r\n" + "".join(f"X-{n}: y\r\n" for n in range(5000)) + "\r\n"
    found: dict[str, tuple[Wants, Any]] = {
        "sound": ("taken", server(lambda c: plain(whole(c)))),
        "sound-folder": ("taken", server(files, "/theirs")),
        "no-length": ("taken", server(lambda c: plain(whole(c), Content_Length=""))),
        "404": ("refused", server(lambda c: plain(b"no", 404))),
        "403-of-escapes": ("refused", server(lambda c: raw(b"HTTP/1.1 403 \x1b[31mno\r\n\r\n"))),
        "500": ("failed", server(lambda c: plain(b"no", 500))),
        "503": ("failed", server(lambda c: plain(b"no", 503, Retry_After="1"))),
        "503-for-a-year": ("failed", server(lambda c: plain(b"no", 503, Retry_After="31536000"))),
        "429-text": ("failed", server(lambda c: plain(b"no", 429, Retry_After="soon"))),
        "no-content": ("failed", server(lambda c: plain(b"", 204))),
        "login-page": ("refused", server(lambda c: plain(b"<html>Sign in</html>", Content_Type="text/html"))),
        "length-too-long": ("failed", server(lambda c: raw(cut.encode()))),
        "length-too-short": ("failed", server(lambda c: plain(whole(c), Content_Length="5000"))),
        "length-below-0": ("either", server(lambda c: plain(whole(c), Content_Length="-5"))),
        "length-text": ("failed", server(lambda c: plain(whole(c), Content_Length="many"))),
        "length-10^30": ("failed", server(lambda c: plain(whole(c), Content_Length="1" + "0" * 30))),
        "no-http": ("failed", server(lambda c: raw(b"SSH-2.0-OpenSSH_9\r\n"))),
        "no-answer": ("failed", server(lambda c: raw(b""))),
        "5000-headers": ("failed", server(lambda c: raw(many.encode()))),
        "header-of-1-mb": ("failed", server(lambda c: raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n"))),
        "chunks-broken": (
            "failed",
            server(lambda c: raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")),
        ),
        "gzip-encoded": ("either", server(lambda c: plain(gzip.compress(whole(c)), Content_Encoding="gzip"))),
        "partial": ("either", server(lambda c: plain(whole(c)[:2000], 206))),
        "folder-sums-endless": ("refused", server(lambda c: endless, "/theirs")),
        "folder-file-missing": (
            "refused",
            server(lambda c: files({n: d for n, d in c.items() if n != "README.md"}), "/theirs"),
        ),
        "folder-sums-name-all": (
            "refused",
            server(lambda c: files({"SHA256SUMS": c["SHA256SUMS"] * 20000}), "/theirs"),
        ),
        "redirect-loop": ("failed", server(loop)),
        "redirect-to-file": ("refused", redirect(local)),
        "redirect-to-ftp": ("refused", redirect(lambda room: "ftp://127.0.0.1:9/theirs.tar")),
        "redirect-to-garbage": ("failed", redirect(lambda room: "http://[::bad/\x1b[31m")),
        "redirect-to-another-host": ("refused", redirect(another_host)),
        "sha256-another": ("refused", server(lambda c: plain(whole(c)), "/theirs.tar", "--sha256", "0" * 64)),
        "sha256-garbage": ("refused", server(lambda c: plain(whole(c)), "/theirs.tar", "--sha256", "xyz")),
    }
    # Bounded in total; without a bound of ours it would be hours, so two minutes say enough.
    slow = _case("web-one-byte-a-second", "failed", server(lambda c: dripping(whole(c), 1.0)), "theirs", seconds=130)
    return [
        *(
            _case(
                f"web-{name}", wants, make, "theirs|release|sha256", seconds=130 if "503" in name else 60, megabytes=300
            )
            for name, (wants, make) in found.items()
        ),
        slow,
    ]


def _addresses() -> list[Case]:
    addresses: dict[str, tuple[Wants, Sequence[Words]]] = {
        "nowhere": ("refused", _pulled("not/there.tar")),
        "empty": ("refused", _pulled("")),
        "a-dash": ("refused", _pulled("-")),
        "ftp": ("refused", _pulled("ftp://127.0.0.1/x.tar")),
        "file-url": ("either", _pulled("file:///etc/passwd")),
        "device": ("refused", _pulled("/dev/zero")),
        "etc": ("refused", _pulled("/etc")),
        "port-99999": ("refused", _pulled("http://127.0.0.1:99999/x.tar")),
        "host-of-brackets": ("refused", _pulled("http://[::1/x.tar")),
        "host-unknown": ("failed", _pulled("http://no-such-host.invalid/x.tar")),
        "spaces": ("failed", _pulled("http://127.0.0.1:9/a b.tar")),
        "newline": ("failed", _pulled("http://127.0.0.1:9/a\nb.tar")),
        "escapes": ("refused", _pulled("\x1b[31mred.tar")),
        "registry-nowhere": ("failed", _pulled("models:/no@alias", "--uri", "http://127.0.0.1:9")),
        "registry-empty": ("refused", _pulled("models:/")),
        "registry-garbage": ("refused", _pulled("models:/a/b/c/d")),
    }
    found = [
        _case(f"address-{name}", wants, lambda room, words=words: words, seconds=90)
        for name, (wants, words) in addresses.items()
    ]

    def onto(room: Room) -> Sequence[Words]:
        room.take("release")
        (room / "pulled").write_text("x")
        return _pulled("release")

    nobody = _case("web-nobody-there", "failed", lambda room: _pulled(closed_port() + "/theirs.tar"), seconds=130)
    return [*found, nobody, _case("onto-a-file", "refused", onto, "pulled")]
