"""What clients say, told apart: texts as obstore 0.12 makes them, of stores that no test can start."""

import errno

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import is_outage
from eyespot.data_pipeline.stores.location import location_of
from eyespot.data_pipeline.stores.store_errors import Denied, Expired, Throttled, answer_of, classified


def said(status: int, code: str, *, style: str = "xml") -> str:
    body = f"<Error><Code>{code}</Code><Message>m</Message></Error>" if style == "xml" else f'{{"error": "{code}"}}'
    return (
        f"Generic S3 error: Error performing GET http://h/b/k in 1.2ms - Server returned non-2xx status code: {status}"
        f" Word: {body}\n\nDebug source:\nGeneric {{ status: {status} }}"
    )


@pytest.mark.parametrize(
    ("address", "text", "kind", "words"),
    [
        ("s3://b/k", said(400, "ExpiredToken"), Expired, "have expired"),
        ("s3://b/k", said(403, "AccessDenied"), Denied, "AWS_PROFILE"),
        ("az://b/k", said(403, "AuthenticationFailed"), Denied, "AZURE_STORAGE_ACCOUNT_KEY"),
        ("gs://b/k", said(401, "invalid_grant", style="json"), Denied, "GOOGLE_APPLICATION_CREDENTIALS"),
        ("hf://u/n/k", said(401, "x"), Denied, "HF_TOKEN"),
        ("s3://b/k", said(400, "AuthorizationHeaderMalformed"), UserError, "AWS_REGION"),
        (
            "s3://b/k",
            "Received redirect without LOCATION, this normally indicates an incorrectly configured region",
            UserError,
            "AWS_REGION",
        ),
        (
            "s3://b/k",
            "Error performing PUT http://169.254.169.254/latest/api/token - error",
            Denied,
            "no credentials found",
        ),
        ("s3://b/k", "x\n\nDebug source: BadScheme", UserError, "AWS_ALLOW_HTTP"),
        ("s3://b/k", "x\n\nDebug source: InvalidCertificate(UnknownIssuer)", UserError, "SSL_CERT_FILE"),
        ("s3://b/k", said(400, "InvalidRequest"), UserError, "400 InvalidRequest"),
        ("s3://b/k", said(404, "NoSuchBucket"), UserError, "there is no bucket 'b'"),
    ],
)
def test_what_no_waiting_mends(address, text, kind, words):
    found = classified(RuntimeError(text), location_of(address))
    assert type(found) is kind and words in str(found) and str(found).startswith(f"{location_of(address)}: ")
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (said(503, "SlowDown"), errno.EAGAIN),
        (said(429, "x"), errno.EAGAIN),
        (said(400, "RequestLimitExceeded"), errno.EAGAIN),
        (said(500, "InternalError"), errno.EREMOTEIO),
        (said(408, "RequestTimeout"), errno.EREMOTEIO),
        ("HTTP error\n\nDebug source: kind: Interrupted", errno.ECONNRESET),
        ("HTTP error\n\nDebug source: kind: Timeout", errno.ETIMEDOUT),
        ("HTTP error\n\nDebug source: kind: Connect", errno.ECONNREFUSED),
        ("HTTP error\n\nDebug source: kind: Connect failed to lookup address: Temporary failure", errno.ECONNREFUSED),
    ],
)
def test_what_may_pass(text, number):
    found = classified(RuntimeError(text), location_of("s3://b/k"))
    assert isinstance(found, OSError) and found.errno == number and is_outage(found)
    assert isinstance(found, Throttled) == (number == errno.EAGAIN)


@pytest.mark.parametrize(
    ("asked", "at"),
    [
        ("http://127.0.0.1:9/b/k in 2ms", "http://127.0.0.1:9"),
        ("https://me:secret@h/b/k?sig=abc in 2ms", "https://h"),
        ("https://h?sig=abc in 2ms", "https://h"),
    ],
)
def test_who_is_not_there_is_named_and_no_key(asked, at):
    text = f"Error performing HEAD {asked} - HTTP error\n\nDebug source: kind: Connect"
    found = classified(RuntimeError(text), location_of("s3://b/k"))
    assert isinstance(found, OSError) and found.strerror == f"the store cannot be reached at {at}"


def test_missing():
    found = classified(RuntimeError(said(404, "NoSuchKey")), location_of("s3://b/k"))
    assert isinstance(found, FileNotFoundError) and found.filename == "s3://b/k"
    assert answer_of(RuntimeError(said(404, "NoSuchKey"))).words == "404 NoSuchKey"
