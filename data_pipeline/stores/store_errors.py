"""What went wrong in an object store, told from what its client says of it.

obstore has few kinds of errors: an expired token, a slow store and a bucket of another region are all its
``GenericError``, and its ``PermissionDeniedError`` is no ``PermissionError``. What a store answered (status, code)
stands in the text. Every kind becomes one of: a ``UserError`` with the fix (nobody gets it by waiting),
``FileNotFoundError``, or an ``OSError`` that ``patience.is_outage`` knows.
"""

import errno
import re
from dataclasses import dataclass

from eyespot.data_pipeline.errors import BUSY, UserError
from eyespot.data_pipeline.stores.location import Address

_STATUS = re.compile(r"status code: (\d{3})")
_HOST = re.compile(r"\b(https?://)(?:[^/@\s]*@)?([^/@?\s]+)")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>|\"code\": ?\"(\w{1,60})\"|\"error\": ?\"(\w{1,60})\"")

EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "InvalidToken"}
WRONG_KEYS = {"SignatureDoesNotMatch", "InvalidAccessKeyId"}
THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "ServerBusy"}
_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE of ~/.aws; of a public bucket:"
    " AWS_SKIP_SIGNATURE=true",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run: gcloud auth application-default login; of a public bucket:"
    " GOOGLE_SKIP_SIGNATURE=true",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and a key, SAS or identity (AZURE_STORAGE_ACCOUNT_KEY,"
    " AZURE_STORAGE_SAS_KEY); with az login: AZURE_USE_AZURE_CLI=true",
    "hf": "set HF_TOKEN, or run: hf auth login",
}

_CERTIFICATES = {
    "CaUsedAsEndEntity": "is an authority's own (CA:TRUE); make the server one with basicConstraints=CA:FALSE",
    "NotValidForName": "is for other names; write one of them in AWS_ENDPOINT_URL",
    "Expired": "has expired; its owner must renew it",
    "NotValidYet": "is not valid yet; see to this machine's clock",
}

_UNFIT = {
    "NotPartial": "sends whole objects where a part is asked for (it ignores Range)",
    "RangeNotSupported": "sends whole objects where a part is asked for (it ignores Range)",
    "MissingContentLength": "does not say how long its answers are (no Content-Length)",
    "ParseContentRange": "does not say how long an object is (no length in Content-Range)",
    "UnexpectedRange": "sends another range than was asked for",
}


class Denied(UserError):
    """The store knows who asks, or nobody, and does not give it."""


class Expired(UserError):
    """The credentials were good once."""


class Throttled(OSError):
    """The store asks for fewer requests."""

    retry_after = 0.0
    """Seconds that it asks to wait, where it says so."""


class Unfit(OSError):
    """An answer of which no range can be had: the server's way, unless it has given some before."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a failed request."""

    status: int
    """Of HTTP; 0 = there was no answer."""
    code: str
    """The store's own word; empty = none."""
    text: str
    """The client's words, without its debug output."""
    source: str
    """The client's debug output: what lies below."""

    @property
    def words(self) -> str:
        """Status and code, as far as there are."""
        return " ".join(part for part in (str(self.status or ""), self.code) if part) or self.text[:200]


def answer_of(error: BaseException) -> Answer:
    """What a client's exception says."""
    text, _, source = str(error).partition("\n\nDebug source:")
    status, code = _STATUS.search(text), _CODE.search(text)
    return Answer(
        status=int(status[1]) if status else 0,
        code=next((part for part in code.groups() if part), "") if code else "",
        text=" ".join(text.split()),
        source=source,
    )


def classified(error: BaseException, place: Address) -> Exception:
    """The exception to raise for one of the client's; see the module.

    Args:
        error: the client's.
        place: what was asked for.
    """
    found = answer_of(error)
    if isinstance(error, FileNotFoundError) or found.status == 404:
        if found.code in ("NoSuchBucket", "ContainerNotFound"):
            return UserError(f"{place}: there is no bucket {place.bucket!r}; see to the name, endpoint and region")
        return FileNotFoundError(errno.ENOENT, "there is no such object", str(place))
    if found.code in THROTTLED or "RangeNotSupported" in found.source:
        return _outage(found)
    refused = _refusal(type(error).__name__, found, place)
    return refused if refused is not None else _outage(found)


def told_of_panic(error: BaseException, place: Address) -> UserError | None:
    """What to raise where the client itself broke, which is no ``Exception``; None = it is something else: Ctrl-C."""
    if type(error).__name__ != "PanicException":
        return None
    what = " ".join(str(error).split())[:200]
    return UserError(
        f"{place}: the store's client broke ({what}); see to the address, and to what the environment says"
    )


def _refusal(kind: str, found: Answer, place: Address) -> UserError | None:
    """What no waiting mends."""
    how = _CREDENTIALS.get(place.scheme, "see to its login")
    if found.code in EXPIRED:
        return Expired(f"{place}: the credentials have expired ({found.words}); renew them, and start again")
    if found.code == "RequestTimeTooSkewed":
        return Denied(f"{place}: denied, for this machine's clock is wrong ({found.words}); set it, and start again")
    if "TooManyRedirects" in found.source and place.scheme != "s3":
        return UserError(f"{place}: the server redirects in a circle; see to the address")
    if found.code in _REGION or "incorrectly configured region" in found.text or "redirect" in found.text[:200]:
        return UserError(f"{place}: the bucket lies in another region ({found.words}); set AWS_REGION to the bucket's")
    if "169.254." in found.text or "MissingAccount" in found.source or "metadata.google" in found.text:
        return Denied(f"{place}: no credentials found; {how}")
    if found.code in WRONG_KEYS:
        return Denied(f"{place}: the keys are not this store's ({found.words}); see to them: {how}")
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or found.status in (401, 403):
        return Denied(f"{place}: denied ({found.words}); ask its owner for access, or {how}")
    if "BadScheme" in found.source:
        return UserError(
            f"{place}: the endpoint says http, which is not encrypted; set AWS_ALLOW_HTTP=true to allow it"
        )
    named = "AWS_ENDPOINT_URL" if place.scheme == "s3" else "the address"
    if "InvalidContentType" in found.source:
        return UserError(f"{place}: the endpoint does not speak TLS; see to {named}: http:// in place of https://")
    if "certificate" in found.source.lower():
        return UserError(f"{place}: the endpoint's certificate {_certificate(found)}")
    if "lookup address" in found.source and "Temporary" not in found.source:
        return UserError(f"{place}: no host of the endpoint's name is known; see to the name and {named}")
    if 400 <= found.status < 500 and found.status not in {*BUSY, 408, 412, 416}:
        return UserError(f"{place}: the store refuses ({found.words}); see to the address, endpoint and region")
    return None


def _certificate(found: Answer) -> str:
    """What is wrong with it, and the fix."""
    for kind, what in _CERTIFICATES.items():
        if kind in found.source:
            return what
    return "is not trusted; set AWS_CA_BUNDLE or SSL_CERT_FILE to your authority's"


def _outage(found: Answer) -> OSError:
    """What may work again."""
    if found.code in THROTTLED or found.status in (429, 503):
        return Throttled(errno.EAGAIN, f"the store asks for fewer requests ({found.words})")
    if found.status in (408, 500, 502, 504):
        return OSError(errno.EREMOTEIO, f"the store has an error ({found.words})")
    if found.status == 416:
        return OSError("is shorter than what was asked for")
    if unfit := next((what for sign, what in _UNFIT.items() if sign in found.source), None):
        return Unfit(errno.EREMOTEIO, f"the server {unfit}")
    if "Timeout" in found.source or "TimedOut" in found.source:
        return OSError(errno.ETIMEDOUT, "the store does not go on (timeout)")
    if "kind: Connect" in found.source:
        at = "".join(host.groups()) if (host := _HOST.search(found.text)) else ""
        return OSError(errno.ECONNREFUSED, f"the store cannot be reached{at and f' at {at}'}")
    if found.status == 0:
        return OSError(errno.ECONNRESET, "the answer was cut")
    return OSError(errno.EIO, f"the store failed ({found.words})")
