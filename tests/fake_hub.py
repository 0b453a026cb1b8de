"""A model hub on loopback that speaks the protocol of the Hugging Face Hub, as far as its client asks for it here.

Repositories have commits, branches and tags; large files go the way of git LFS and lie on another host, a "CDN", to
which the hub sends whoever downloads. Any answer can be made a fault, so many times.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LICENSES = {"apache-2.0", "mit", "cc-by-nc-4.0", "other"}
TOKEN = "hf_" + "w" * 30
READ_ONLY = "hf_" + "r" * 30


@dataclass
class Repository:
    """What the hub holds of one: every commit is a whole tree."""

    private: bool
    gated: bool = False
    library: str = "timm"
    trees: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        said = f"{message}{sorted((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())}"
        sha = hashlib.sha1(f"{said}{len(self.messages)}".encode()).hexdigest()
        self.trees[sha], self.branches[branch] = files, sha
        self.messages.append(message)
        return sha

    def find(self, revision: str) -> str | None:
        revision = unquote(revision)
        short = [sha for sha in self.trees if len(revision) >= 7 and sha.startswith(revision)]
        return self.branches.get(revision) or self.tags.get(revision) or next(iter(short), None)


@dataclass
class Fault:
    """What is answered in place of the right thing."""

    pattern: str
    """Of method and path: "GET .*/resolve/.*safetensors"."""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    times: int = 1 << 30
    cut: int = -1
    """Of the right answer's body, after so many bytes the line goes dead; -1 = never."""
    pause: float = 0.0
    """Seconds before it is answered."""
    after: Callable[[], None] | None = None
    """Called once the right thing has been done: what it answers is lost, if there is a status."""
    to_itself: bool = False
    """Whether who asks is sent to the same address once more."""


class FakeHub:
    """The server; a context manager that stops it."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.moved: dict[str, str] = {}
        self.uploaded: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.asked: list[str] = []
        self.tokens_at_cdn: list[str] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        port = self.server.server_port
        self.url, self.cdn = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def make(self, name: str, files: dict[str, bytes] | None = None, **options: Any) -> Repository:
        """A repository, with the hub's own first commit and, if there are files, one with them."""
        made = self.repositories[name] = Repository(**({"private": False} | options))
        first = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        made.commit("main", first, "initial commit")
        if files:
            made.commit("main", first | files, "files")
        return made

    def fail(self, pattern: str, status: int = 0, **options: Any) -> None:
        self.faults.append(Fault(pattern, status, **options))

    def count(self, pattern: str) -> int:
        return sum(re.fullmatch(pattern, line) is not None for line in self.asked)

    @contextmanager
    def recorded(self) -> Iterator[list[str]]:
        before = len(self.asked)
        found: list[str] = []
        yield found
        found += self.asked[before:]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None:
                pass

            def do_GET(self) -> None:
                hub._serve(self)

            do_HEAD = do_POST = do_PUT = do_GET

        return Handler

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        sent = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if request.headers.get("Transfer-Encoding") == "chunked":
            while size := int(request.rfile.readline(), 16):
                sent += request.rfile.read(size)
                request.rfile.readline()
            request.rfile.readline()
        line = f"{request.command} {urlsplit(request.path).path}"
        with self.lock:
            self.asked.append(line)
            fault = next((one for one in self.faults if one.times and re.fullmatch(one.pattern, line)), None)
            if fault is not None:
                fault.times -= 1
        if fault is not None and fault.pause:
            time.sleep(fault.pause)
        if fault is not None and fault.to_itself:
            self._note_token(request)
            _answer(request, 302, b"", {"Location": request.path})
            return
        if fault is not None and fault.status and fault.after is None:
            _answer(request, fault.status, fault.body, fault.headers)
            return
        with self.lock:
            status, body, headers = self._right(request, sent)
        if fault is not None and fault.after is not None:
            fault.after()
        if fault is not None and fault.status:
            status, body, headers = fault.status, fault.body, fault.headers
        _answer(request, status, body, headers, fault.cut if fault is not None else -1)

    def _right(self, request: BaseHTTPRequestHandler, sent: bytes) -> tuple[int, bytes, dict[str, str]]:
        parts = urlsplit(request.path)
        token = _token(request)
        if parts.path.startswith("/cdn/"):
            self._note_token(request)
            return self._cdn(request.command, parts.path.rpartition("/")[2], parts.query, sent)
        if token not in ("", TOKEN, READ_ONLY):
            return _refuse(401, "", "Invalid credentials in Authorization header")
        if request.command in ("POST", "PUT") and token != TOKEN:
            return _refuse(401 if not token else 403, "", "You don't have the rights to do that")
        for pattern, answer in _ROUTES:
            if matched := re.fullmatch(pattern, f"{request.command} {parts.path}"):
                named = {name: unquote(value) if value else value for name, value in matched.groupdict().items()}
                if "repo" not in named:
                    return answer(self, sent, **named)
                repo = named.pop("repo")
                if repo in self.moved:
                    return 307, b"", {"Location": request.path.replace(repo, self.moved[repo], 1)}
                found = self.repositories.get(repo)
                if found is None or (found.private and not token):
                    return _refuse(401 if not token else 404, "RepoNotFound", "Repository not found")
                if found.gated and not token and "/resolve/" in parts.path:
                    return _refuse(401, "GatedRepo", f"Access to model {repo} is restricted")
                return answer(self, sent, repo=repo, found=found, query=parse_qs(parts.query), **named)
        return _refuse(404, "", f"no route {request.command} {parts.path}")

    def _note_token(self, request: BaseHTTPRequestHandler) -> None:
        if (token := _token(request)) and request.path.startswith("/cdn/"):
            self.tokens_at_cdn.append(token)

    # What follows answers one kind of question each: (status, body, headers).

    def _validate(self, sent: bytes) -> Any:
        head = json.loads(sent)["content"].split("---\n")[1]
        said, errors = yaml.safe_load(head), []
        if said.get("license") not in LICENSES:
            errors.append({"message": f'"license" must be one of [{", ".join(sorted(LICENSES))}]'})
        if said.get("license") == "other" and not re.fullmatch(r"[a-z0-9-.]+", said.get("license_name", "")):
            errors.append({"message": '"license_name" fails to match the required pattern'})
        for entry in said.get("model-index", []):
            for result in entry["results"]:
                assert result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
                assert all(metric["type"] and isinstance(metric["value"], float) for metric in result["metrics"])
        return _json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _create(self, sent: bytes) -> Any:
        said = json.loads(sent)
        name = f"{said.get('organization') or 'somebody'}/{said['name']}"
        if name in self.repositories:
            return _json({"error": "You already created this model repo", "url": f"{self.url}/{name}"}, 409)
        self.make(name, private=said.get("visibility") == "private")
        return _json({"url": f"{self.url}/{name}", "name": name, "id": "1"})

    def _who(self, sent: bytes) -> Any:
        return _json({"type": "user", "name": "somebody", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def _describe(self, sent: bytes, repo: str, found: Repository, query: Any, revision: str | None = None) -> Any:
        sha = found.find(revision or "main")
        if sha is None:
            return _refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files: list[dict[str, Any]] = [{"rfilename": name} for name in sorted(found.trees[sha])]
        if query.get("blobs"):
            for one in files:
                one |= _blob(one["rfilename"], found.trees[sha][one["rfilename"]])
        said = {"id": repo, "modelId": repo, "sha": sha, "private": found.private, "gated": found.gated}
        return _json(said | {"siblings": files, "tags": [], "library_name": found.library, "downloads": 0, "likes": 0})

    def _tree(self, sent: bytes, repo: str, found: Repository, query: Any, revision: str) -> Any:
        sha, listed = found.find(revision), []
        if sha is None:
            return _refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        for name, data in sorted(found.trees[sha].items()):
            blob = _blob(name, data)
            one = {"type": "file", "path": name, "size": blob["size"], "oid": blob["blobId"]}
            if "lfs" in blob:
                one["lfs"] = {"oid": blob["lfs"]["sha256"], **blob["lfs"]}
            listed.append(one)
        return _json(listed)

    def _refs(self, sent: bytes, repo: str, found: Repository, query: Any) -> Any:
        said: dict[str, Any] = {"converts": [], "pullRequests": []}
        for kind, git, refs in (("branches", "heads", found.branches), ("tags", "tags", found.tags)):
            said[kind] = [
                {"name": name, "ref": f"refs/{git}/{name}", "targetCommit": sha} for name, sha in refs.items()
            ]
        return _json(said)

    def _branch(self, sent: bytes, repo: str, found: Repository, query: Any, name: str) -> Any:
        if name in found.branches:
            return _json({"error": "Reference already exists"}, 409)
        found.branches[name] = found.find(json.loads(sent).get("startingPoint", "main")) or ""
        return _json({})

    def _tag(self, sent: bytes, repo: str, found: Repository, query: Any, revision: str) -> Any:
        name, sha = json.loads(sent)["tag"], found.find(revision)
        if name in found.tags:
            return _json({"error": "Tag reference exists already."}, 409)
        if sha is None:
            return _refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        found.tags[name] = sha
        return _json({})

    def _preupload(self, sent: bytes, repo: str, found: Repository, query: Any, revision: str) -> Any:
        sha, files = found.find(revision), []
        if sha is None:
            return _refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        for one in json.loads(sent)["files"]:
            large = _is_large(one["path"], base64.b64decode(one["sample"]), one["size"])
            data = found.trees[sha].get(one["path"])
            there = _blob(one["path"], data) if data is not None else {}
            oid = there["lfs"]["sha256"] if "lfs" in there else there.get("blobId")
            said = {"path": one["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            files.append(said | ({"oid": oid} if oid else {}))
        return _json({"files": files})

    def _batch(self, sent: bytes, repo: str, found: Repository, query: Any) -> Any:
        said, objects = json.loads(sent), []
        assert said["operation"] == "upload" and said["hash_algo"] == "sha256" and "basic" in said["transfers"]
        for one in said["objects"]:
            answer = {"oid": one["oid"], "size": one["size"], "authenticated": True}
            if one["oid"] not in self.uploaded:
                place = {"href": f"{self.cdn}/cdn/{one['oid']}?X-Amz-Signature=secret-of-the-cdn"}
                answer["actions"] = {"upload": place, "verify": {"href": f"{self.url}/{repo}.git/info/lfs/verify"}}
            objects.append(answer)
        return _json({"transfer": "basic", "objects": objects})

    def _verify(self, sent: bytes, repo: str, found: Repository, query: Any) -> Any:
        said = json.loads(sent)
        right = len(self.uploaded.get(said["oid"], b"")) == said["size"]
        return _json({}) if right else _json({"error": "size is not as it was told"}, 422)

    def _cdn(self, method: str, oid: str, query: str, sent: bytes) -> Any:
        if method == "PUT":
            if hashlib.sha256(sent).hexdigest() != oid:
                return _json({"error": "sha256 is not as it was told"}, 400)
            self.uploaded[oid] = sent
            return 200, b"", {"ETag": f'"{oid}"'}
        data = self.uploaded.get(oid)
        return (404, b"", {}) if data is None else (200, data, {"ETag": f'"{oid}"'})

    def _commit(self, sent: bytes, repo: str, found: Repository, query: Any, revision: str) -> Any:
        head, *lines = [json.loads(line) for line in sent.splitlines()]
        assert head["key"] == "header"
        if revision not in found.branches:
            return _refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        parent = found.branches[revision]
        if head["value"].get("parentCommit", parent) != parent:
            return _json({"error": "A commit has happened since. Please refresh and try again."}, 412)
        files = dict(found.trees[parent])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.uploaded:
                    return _json({"error": f"LFS pointer pointed to a file that does not exist: {value['path']}"}, 400)
                files[value["path"]] = self.uploaded[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        sha = found.commit(revision, files, head["value"]["summary"])
        return _json({"success": True, "commitOid": sha, "commitUrl": f"{self.url}/{repo}/commit/{sha}"})

    def _resolve(self, sent: bytes, repo: str, found: Repository, query: Any, revision: str, path: str) -> Any:
        sha = found.find(revision)
        if sha is None:
            return _refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if path not in found.trees[sha]:
            return 404, b"Entry not found", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}
        data = found.trees[sha][path]
        blob, headers = _blob(path, data), {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if "lfs" not in blob:
            return 200, data, headers | {"ETag": f'"{blob["blobId"]}"'}
        oid = blob["lfs"]["sha256"]
        self.uploaded[oid] = data
        linked = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{oid}"', "ETag": f'"{oid}"'}
        return 302, b"", headers | linked | {"Location": f"{self.cdn}/cdn/{oid}?X-Amz-Signature=secret-of-the-cdn"}


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, Callable[..., Any]]] = [
    (r"POST /api/validate-yaml", FakeHub._validate),
    (r"POST /api/repos/create", FakeHub._create),
    (r"GET /api/whoami-v2", FakeHub._who),
    (rf"GET /api/models/{_REPO}/refs", FakeHub._refs),
    (rf"GET /api/models/{_REPO}/tree/(?P<revision>.+)", FakeHub._tree),
    (rf"GET /api/models/{_REPO}(?:/revision/(?P<revision>.+))?", FakeHub._describe),
    (rf"POST /api/models/{_REPO}/branch/(?P<name>.+)", FakeHub._branch),
    (rf"POST /api/models/{_REPO}/tag/(?P<revision>.+)", FakeHub._tag),
    (rf"POST /api/models/{_REPO}/preupload/(?P<revision>.+)", FakeHub._preupload),
    (rf"POST /api/models/{_REPO}/commit/(?P<revision>.+)", FakeHub._commit),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", FakeHub._batch),
    (rf"POST /{_REPO}\.git/info/lfs/verify", FakeHub._verify),
    (rf"(?:GET|HEAD) /{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", FakeHub._resolve),
]


def _token(request: BaseHTTPRequestHandler) -> str:
    return (request.headers.get("Authorization") or "").removeprefix("Bearer ")


def _is_large(path: str, sample: bytes, size: int) -> bool:
    return path.endswith((".safetensors", ".onnx", ".pt2")) or b"\0" in sample or size > 10 << 20


def _blob(path: str, data: bytes) -> dict[str, Any]:
    """What the hub tells of a file: git's digest, of a large one that of its pointer."""
    if not _is_large(path, data[:512], len(data)):
        return {"size": len(data), "blobId": _git(data)}
    oid = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n".encode()
    lfs = {"sha256": oid, "size": len(data), "pointerSize": len(pointer)}
    return {"size": len(data), "blobId": _git(pointer), "lfs": lfs}


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _json(values: Any, status: int = 200) -> tuple[int, bytes, dict[str, str]]:
    return status, json.dumps(values).encode(), {"Content-Type": "application/json"}


def _refuse(status: int, code: str, message: str) -> tuple[int, bytes, dict[str, str]]:
    _, body, headers = _json({"error": message})
    return status, body, headers | {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


def _answer(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], cut: int = -1) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        with suppress(ConnectionError):  # who asked did not wait
            request.wfile.write(body if cut < 0 else body[:cut])
    if cut >= 0:
        request.close_connection = True
