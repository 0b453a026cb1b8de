"""The clients of object stores: one of each bucket in a process, made by what the environment says.

No client survives a fork: the threads that do its requests stay behind, and a request of the child, of a new client
too, would wait for ever. Nothing here forks; a process that somebody else forked is told so (``refuse_fork``).
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.stores import aws_credentials
from eyespot.data_pipeline.stores.location import Address, is_web_host
from eyespot.data_pipeline.stores.store_errors import told_of_panic

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Native

_ENDPOINT = re.compile(r"https?://([^/]+)(/[\w./-]*)?")
_REGION = re.compile(r"[A-Za-z0-9-]+")
CONNECT_SECONDS, SILENT_SECONDS, WHOLE_SECONDS = 10, 20, 180
"""Until a connection stands; without a byte; for one request."""


class Client:
    """Of one bucket: the native one, made anew when its credentials have changed.

    Args:
        address: of something in the bucket.
    """

    def __init__(self, address: Address) -> None:
        self.scheme, self._address = address.scheme, address
        self._lock = threading.Lock()
        self._keys: aws_credentials.Keys | None = None
        self.native: Native = self._make()
        """Ask ``refuse_fork`` before it is used."""

    @property
    def origin(self) -> str:
        """Where the credentials come from; empty = the client itself has found them."""
        return self._keys.origin if self._keys is not None else ""

    def renew(self, failed: "Native") -> bool:
        """Reads the credentials anew; whether there are others than those that ``failed``."""
        with self._lock:
            if self.native is not failed:
                return True  # another thread did
            before = self._keys
            if self.scheme != "s3" or before is None:
                return False
            made = self._make()
            if self._keys == before:
                return False
            self.native = made
            return True

    def _make(self) -> "Native":
        try:
            from obstore.store import AzureStore, GCSStore, HTTPStore
        except ImportError:
            raise UserError(
                f"{self._address}: shards in object stores need obstore: pip install 'eyespot[remote]'"
            ) from None
        options: dict[str, Any] = {
            "connect_timeout": f"{CONNECT_SECONDS}s",
            "read_timeout": f"{SILENT_SECONDS}s",
            "timeout": f"{WHOLE_SECONDS}s",
        }
        plain: dict[str, Any] = {
            "client_options": options,
            "retry_config": {"max_retries": 0},
        }  # we try again ourselves
        bucket = self._address.bucket
        try:
            if self.scheme == "s3":
                return self._s3(bucket, plain)
            if self.scheme == "gs":
                return GCSStore(bucket, **plain)
            if self.scheme == "az":
                options["allow_http"] = os.environ.get("AZURE_STORAGE_USE_EMULATOR", "") not in ("", "false")
                return AzureStore(bucket, **plain)
            url = f"{self.scheme}://{bucket}"
            if self.scheme == "hf":
                url, token = _hub(bucket)
                options["default_headers"] = {"Authorization": f"Bearer {token}"} if token else {}
            options["allow_http"] = url.startswith("http://")
            return HTTPStore.from_url(url, **plain)
        except UserError:
            raise
        except Exception as error:  # obstore's own, and ValueError
            what = " ".join(str(error).partition("\n")[0].split())[:300]
            raise UserError(f"{self._address}: no client can be made ({what}); see to the environment") from error
        except BaseException as error:
            if (told := told_of_panic(error, self._address)) is None:
                raise
            raise told from error

    def _s3(self, bucket: str, plain: dict[str, Any]) -> "Native":
        from obstore.store import S3Store

        said = os.environ
        if said.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes"):
            keys, settings = None, {}
        else:
            keys, settings = aws_credentials.find_keys(), aws_credentials.profile_settings()
        more: dict[str, Any] = dict(plain)
        endpoint = said.get("AWS_ENDPOINT_URL_S3") or said.get("AWS_ENDPOINT_URL") or settings.get("endpoint_url")
        if endpoint:
            found = _ENDPOINT.fullmatch(endpoint)
            if found is None or not is_web_host(found[1]):  # the client would panic
                raise UserError(
                    f"{self._address}: AWS_ENDPOINT_URL is no address; write https://HOST or http://HOST:PORT"
                )
            more["endpoint"] = _of_bucket(endpoint.rstrip("/"), bucket)
            plain["client_options"]["allow_http"] = endpoint.startswith("http://")
        region = said.get("AWS_REGION") or said.get("AWS_DEFAULT_REGION") or settings.get("region") or "us-east-1"
        if not _REGION.fullmatch(region):  # the store would only say that the signature is wrong
            raise UserError(f"{self._address}: AWS_REGION {region!r} is no region; write one like us-east-1")
        if keys is not None:
            # Not the keys themselves: obstore would neither renew them, nor leave the environment's aside.
            more["credential_provider"] = lambda: self._credential(keys)
        self._keys = keys
        with _trusting(said.get("AWS_CA_BUNDLE") or settings.get("ca_bundle"), self._address):
            return S3Store(bucket, region=region, **more)

    def _credential(self, first: aws_credentials.Keys) -> dict[str, Any]:
        """Asked for at first, and when the last ones are near their end."""
        found = aws_credentials.find_keys() or first
        self._keys = found
        return found.credential()


def _of_bucket(endpoint: str, bucket: str) -> str:
    """The endpoint as the client takes it: where buckets are hosts, the bucket's."""
    if os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() not in ("1", "true", "yes"):
        return endpoint
    scheme, _, rest = endpoint.partition("://")
    named = rest.startswith(f"{bucket}.") or rest.endswith(f"/{bucket}")
    return endpoint if named else f"{scheme}://{bucket}.{rest}"


@contextmanager
def _trusting(bundle: str | None, place: Address) -> Iterator[None]:
    """A client that is made meanwhile trusts a file's authorities alone. It reads them where SSL_CERT_FILE says.

    Raises:
        UserError: there is no such file.
    """
    if not bundle:
        yield
        return
    if not (path := Path(bundle).expanduser()).is_file():
        raise UserError(f"{place}: AWS_CA_BUNDLE {bundle}: no such file; give one with your authority's certificate")
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(path)
    try:
        yield
    finally:  # else it would count for all that this process asks
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before


def _hub(bucket: str) -> tuple[str, str]:
    """The address under which the hub gives the files of ``datasets/USER/NAME[@REVISION]``, and the person's token."""
    from huggingface_hub import constants, get_token

    name, _, revision = bucket.partition("@")
    return f"{constants.ENDPOINT}/{name}/resolve/{revision or 'main'}", get_token() or ""


def web_address(place: Address) -> tuple[str, dict[str, str]]:
    """Where a browser finds an object, and the headers it needs; empty where it has to be signed."""
    key = quote(place.key)
    if place.scheme == "hf":
        url, token = _hub(place.bucket)
        return f"{url}/{key}", {"Authorization": f"Bearer {token}"} if token else {}
    return (f"{place.scheme}://{place.bucket}/{key}", {}) if place.scheme in ("http", "https") else ("", {})


class _Requests:
    """Of this process and those that it was forked from."""

    made = False
    before_fork = False
    """Whether some were made in a process that this one was forked from."""


def _forked() -> None:
    _Requests.before_fork = _Requests.made


os.register_at_fork(after_in_child=_forked)


def refuse_fork(place: Address) -> None:
    """Comes before each request.

    Raises:
        UserError: this process was forked from one that had made requests.
    """
    if _Requests.before_fork:
        raise UserError(
            f"{place}: this process was forked from one that had read from a store, and cannot read from it; start"
            ' it by spawn: multiprocessing.set_start_method("spawn"), of a DataLoader num_workers=0 or'
            ' multiprocessing_context="spawn"'
        )
    _Requests.made = True


_CLIENTS: dict[tuple[int, str, str], Client] = {}
_MAKING = threading.Lock()


def client_of(address: Address) -> Client:
    """That of the address's bucket.

    Raises:
        UserError: obstore is not installed, or the environment's settings are none.
    """
    which = (os.getpid(), address.scheme, address.bucket)
    with _MAKING:
        if which not in _CLIENTS:
            _CLIENTS[which] = Client(address)
        return _CLIENTS[which]


def forget_clients() -> None:
    """From now on the environment is read anew."""
    with _MAKING:
        _CLIENTS.clear()
