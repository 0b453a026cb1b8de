"""ObjectStore: a prefix of an object store (S3, GCS, Azure, HTTP, Hugging Face) as a Store, through obstore.

Every request is tried a few times here, quietly; what still fails is the caller's to wait for (patience.py). Ranges
are checked for their length, large ones asked for in parts at once, so that a cut part alone is fetched again. The tag
(ETag) of the first look at an object is kept: who finds other bytes can ask whether it was replaced meanwhile.
"""

import errno
import hashlib
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.foreign_json import ForeignJsonError
from eyespot.data_pipeline.patience import asked_to_wait, is_outage
from eyespot.data_pipeline.stores.clients import client_of, refuse_fork
from eyespot.data_pipeline.stores.location import Address
from eyespot.data_pipeline.stores.retry_after import retry_after
from eyespot.data_pipeline.stores.store import Stat, Store
from eyespot.data_pipeline.stores.store_errors import (
    Denied,
    Expired,
    Throttled,
    Unfit,
    answer_of,
    classified,
    told_of_panic,
)

log = logging.getLogger("eyespot")

T = TypeVar("T")

PART = 16 << 20
"""Bytes of one request at most."""
TRIES, FIRST_PAUSE, FIRST_THROTTLED = 5, 0.1, 0.5
"""Quick tries of one request, and the seconds before the second; each pause is twice the last, half of it by chance."""
LONGEST_PAUSE = 5.0
"""Seconds that are waited here where the store says how long."""
QUICK_SECONDS = 30.0
"""After so long nothing is tried again here: a store that stalls is waited for by whoever has patience, and says so."""
NUM_THREADS = 16
_MD5 = re.compile(r"([0-9a-f]{32})")


class ObjectStore(Store):
    """See ``Store``.

    Args:
        location: the prefix.
        tags: of objects that were looked at before.

    Raises:
        UserError: there is no client for it.
    """

    is_remote = True

    def __init__(self, location: Address, tags: dict[str, str] | None = None) -> None:
        self.location = location
        self._client = client_of(location)
        self._tags, self._changed = dict(tags or {}), set[str]()
        self._lock, self._pool = threading.Lock(), None
        self._gives_ranges = False
        self.num_retries = 0
        """Requests that had to be made again."""

    def __reduce__(self) -> tuple[type["ObjectStore"], tuple[Address, dict[str, str]]]:
        return ObjectStore, (self.location, self._tags)

    def place(self, key: str) -> Address:
        """The object's address."""
        return self.location / key if key else self.location

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """A range of an object, exactly."""
        if end is None:
            size, content = self._begin(key, start or 0)
            start, end = (start or 0) + len(content), size
            return content + self._parts(key, start, end) if start < end else content
        return bytes(self._parts(key, start or 0, end))

    def view(self, key: str, start: int, end: int) -> memoryview:
        """A range as the client has it in memory, where one request brings it."""
        return memoryview(self._parts(key, start, end))

    def read_whole(self, key: str, largest: int, *, first: bool = False) -> bytes:
        """All of an object, again where it is not what its tag says; or the first of a larger one."""
        for last in (False, True):
            size, content = self._begin(key, 0)
            if size > largest and first:
                return (content + self._parts(key, min(len(content), largest), largest))[:largest]
            if size > largest:
                raise ForeignJsonError(str(self.place(key)), f"over {largest:,} bytes, which is no size for it")
            content += self._parts(key, len(content), size)
            # The tag of an object that was put at once and unencrypted is its MD5; of others it says nothing.
            found = _MD5.fullmatch(self._tags.get(key, ""))
            if last or not found or hashlib.md5(content, usedforsecurity=False).hexdigest() == found[1]:
                break
        return content

    def stat(self, key: str) -> Stat:
        """Size and ETag."""
        import obstore

        def ask(native: Any) -> Stat:
            try:
                found = obstore.head(native, self._key(key))
            except Exception as error:
                # The answer to HEAD has no body, and its status alone does not say why; some servers know GET alone.
                answer = answer_of(error)
                if answer.status not in (400, 403, 404, 405, 501) and "MissingContentLength" not in answer.source:
                    raise
                got = obstore.get(native, self._key(key), options={"range": (0, 1)})
                found, _ = got.meta, got.bytes()
            return Stat(int(found["size"]), _tag(found))

        return self._seen(key, self._tried(key, ask))

    def stats(self, keys: Iterable[str]) -> dict[str, Stat]:
        """By one listing of the folder; where that is not allowed, or a web server, by a question for each."""
        wanted = list(keys)
        if self.location.scheme not in ("http", "https", "hf"):
            try:
                listed = dict(self.list())
                return {key: listed[key] for key in wanted if key in listed}
            except Denied:
                log.info("%s: may not be listed; every object is asked for", self.location)

        def ask(key: str) -> tuple[str, Stat] | None:
            try:
                return key, self.stat(key)
            except FileNotFoundError:
                return None

        return dict(found for found in self._threads().map(ask, wanted) if found)

    def list(self, prefix: str = "") -> Iterator[tuple[str, Stat]]:
        """All objects below a folder, in the order of the store."""
        import obstore

        above = self._key(prefix) if prefix else self.location.key
        cut = len(self.location.key) + 1 if self.location.key else 0

        def ask(native: Any) -> list[tuple[str, Stat]]:
            return [
                (meta["path"][cut:], Stat(int(meta["size"]), _tag(meta)))
                for page in obstore.list(native, prefix=above or None)
                for meta in page
            ]

        for key, stat in self._tried(prefix, ask):
            yield key, self._seen(key, stat)

    def put(self, key: str, content: bytes) -> None:
        """Puts an object as a whole."""
        import obstore

        done = self._tried(key, lambda native: obstore.put(native, self._key(key), content))
        with self._lock:
            self._tags[key] = _tag(done)
            self._changed.discard(key)

    def is_changed(self, key: str) -> bool:
        """Whether an answer bore another tag than the first."""
        return key in self._changed

    def _key(self, key: str) -> str:
        return self.place(key).key

    def _begin(self, key: str, start: int) -> tuple[int, bytes]:
        """The object's size and its first part from ``start`` on."""

        def ask(native: Any) -> tuple[int, bytes]:
            size, content = self._range(native, key, start, start + PART, exact=False)
            return size, bytes(content)

        try:
            return self._tried(key, ask)
        except OSError as error:
            if error.errno is None and (size := self.stat(key).size) <= start:  # an empty object has no range
                return size, b""
            raise

    def _parts(self, key: str, start: int, end: int) -> bytes | memoryview:
        def part(first: int) -> memoryview:
            last = min(end, first + PART)
            return self._tried(key, lambda native: self._range(native, key, first, last, exact=True)[1])

        starts = range(start, end, PART)
        return part(start) if len(starts) == 1 else b"".join(self._threads().map(part, starts))

    def _range(self, native: Any, key: str, start: int, end: int, *, exact: bool) -> tuple[int, memoryview]:
        """One request: the object's size, and its bytes."""
        import obstore

        answer = obstore.get(native, self._key(key), options={"range": (start, end)})
        size, tag = int(answer.meta["size"]), _tag(answer.meta)
        content = memoryview(answer.bytes())
        if size < end and exact:
            raise OSError(f"ends at byte {size:,}, where {start:,} to {end:,} were asked for")
        wanted, encoded = min(end, size) - start, answer.attributes.get("Content-Encoding", "")
        if len(content) != wanted and encoded:
            raise Unfit(errno.EREMOTEIO, f"the server sends it encoded (Content-Encoding: {str(encoded)[:40]})")
        if len(content) != wanted:
            raise OSError(errno.ECONNRESET, f"the answer was cut: {len(content):,} of {wanted:,} bytes")
        self._gives_ranges = True
        self._seen(key, Stat(size, tag))
        return size, content

    def _seen(self, key: str, stat: Stat) -> Stat:
        """Keeps the first tag, and notices another."""
        with self._lock:
            first = self._tags.setdefault(key, stat.tag)
            if not stat.tag or not first or first == stat.tag or key in self._changed:
                return stat
            self._changed.add(key)
            count = len(self._changed)
        if count == 1:
            log.warning(
                "%s: was replaced since it was first looked at (another ETag); what is read of it counts while its"
                " checksums are right",
                self.place(key),
            )
        return stat

    def _tried(self, key: str, ask: Callable[[Any], T]) -> T:
        """What a request returns, after a few quick tries.

        Raises:
            FileNotFoundError, OSError, UserError: see ``Store``.
        """
        refuse_fork(self.place(key))
        renewed, began = False, time.monotonic()
        for number in range(1, TRIES + 1):
            native = self._client.native
            try:
                return ask(native)
            except Exception as error:
                found, failed = self._told(error, key, native), error
            except BaseException as error:
                if (told := told_of_panic(error, self.place(key))) is None:
                    raise
                raise told from error
            last = number == TRIES or time.monotonic() - began > QUICK_SECONDS
            if isinstance(found, Denied | Expired) and not renewed and self._client.renew(native):
                renewed = True
                continue
            if isinstance(found, Unfit) and last and not self._gives_ranges:
                raise UserError(f"{self.place(key)}: {found.strerror}; take another server") from failed
            if not isinstance(found, OSError) or not is_outage(found) or last:
                raise found from failed
            if (asked := asked_to_wait(found)) > LONGEST_PAUSE:
                raise found from failed  # whoever has patience waits so long
            self.num_retries += 1
            pause = (FIRST_THROTTLED if isinstance(found, Throttled) else FIRST_PAUSE) * 2 ** (number - 1)
            time.sleep(asked + pause * random.uniform(0.5, 1))
        raise AssertionError("the last try returns or raises")

    def _told(self, error: Exception, key: str, native: Any) -> Exception:
        """The exception to raise for one of the client's, or of this file's."""
        ours = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        found = error if ours else classified(error, self.place(key))
        if isinstance(found, Expired) and (origin := self._client.origin):
            return Expired(f"{self.place(key)}: the credentials of {origin} have expired; renew them there")
        if isinstance(found, Throttled):
            found.retry_after = retry_after(native, self.place(key))
        return found

    def _threads(self) -> ThreadPoolExecutor:
        refuse_fork(self.location)  # those of the other process are not here
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(NUM_THREADS, "eyespot-store")
            return self._pool


def _tag(meta: Any) -> str:
    """An object's ETag without its quotes, which Azure's listing leaves out."""
    return (meta["e_tag"] or "").removeprefix("W/").strip('"')
