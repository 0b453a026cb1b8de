"""Clients on a real server: profiles, renewed credentials, no credentials, other people's."""

import os
import pickle
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from remote_store import KEY, SECRET, STRANGER, STRANGERS_SECRET, Faults

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.stores import clients
from eyespot.data_pipeline.stores.location import location_of
from eyespot.data_pipeline.stores.open_store import open_store
from eyespot.data_pipeline.stores.store_errors import Denied, Expired

from .conftest import CONTENT


@pytest.fixture
def profile(store, monkeypatch, tmp_path, faults):
    """Writes the credentials file, which counts in place of the environment."""
    file = tmp_path / "credentials"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def write(key: str, secret: str) -> None:
        where = f"endpoint_url = {faults.endpoint}\nregion = us-east-1"
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n{where}\n")

    clients.forget_clients()
    return write


def test_a_profile_says_keys_endpoint_and_region(profile):
    profile(KEY, SECRET)
    assert open_store("s3://data/stores").read("some", 0, 5) == CONTENT[:5]


def test_credentials_are_read_anew_when_the_store_refuses(profile, faults):
    profile(STRANGER, STRANGERS_SECRET)
    store = open_store("s3://data/stores")
    with pytest.raises(Denied, match=r"denied \(403 AccessDenied\)") as caught:
        store.read("some", 0, 5)
    assert STRANGERS_SECRET not in str(caught.value)
    profile(KEY, SECRET)
    assert store.read("some", 0, 5) == CONTENT[:5], "the file was renewed while the run goes on"
    faults.inject("expired")
    with pytest.raises(Expired, match=r"the credentials of profile 'default' of ~/.aws have expired; renew them there"):
        store.read("some", 0, 5)
    faults.clear()
    assert pickle.loads(pickle.dumps(store)).read("some", 0, 5) == CONTENT[:5]


def test_wrong_keys_are_one_line(store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    clients.forget_clients()
    with pytest.raises(Denied, match=r"keys are not this store.*SignatureDoesNotMatch") as caught:
        open_store("s3://data/stores").read("some", 0, 5)
    assert "not-the-secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_one_client_of_each_bucket(store):
    one, same, other = (clients.client_of(location_of(f"s3://{name}")) for name in ("data/a", "data/b", "else/a"))
    assert one is same and one is not other


@pytest.mark.parametrize(
    ("endpoint", "line"),
    [
        ("http://nowhere.invalid", "no host of the endpoint's name is known"),
        ("no-address", "s3://data/x: AWS_ENDPOINT_URL is no address; write https://HOST"),
        ("http://127.0.0.1:99999", "s3://data/x: AWS_ENDPOINT_URL is no address"),
        ("http://[::1", "s3://data/x: AWS_ENDPOINT_URL is no address"),
        (
            "http://me:secret@host",
            "s3://data/x: AWS_ENDPOINT_URL is no address; write https://HOST or http://HOST:PORT$",
        ),
    ],
)
def test_a_wrong_endpoint_is_one_line(store, monkeypatch, endpoint, line):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    clients.forget_clients()
    with pytest.raises(UserError, match=line) as caught:
        open_store("s3://data/x").read("some", 0, 5)
    assert "\n" not in str(caught.value)


def test_other_clients_can_be_made(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "somebody")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    for address in ("gs://bucket/x", "az://container/x", "https://host/x", "hf://me/mine/x"):
        assert clients.client_of(location_of(address)).native is not None
    clients.forget_clients()
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    with pytest.raises(UserError, match=r"az://container/x: no client can be made .*Account must be specified"):
        clients.client_of(location_of("az://container/x"))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_is_told_that_it_cannot_read(store):
    """It would wait for ever: the client's threads are not in it, of whatever client."""
    assert store.read("some", 0, 5) == CONTENT[:5]
    told, tell = os.pipe()
    if not (child := os.fork()):
        try:
            signal.alarm(20)
            new = open_store("s3://data/stores")
            for ask in (
                lambda: store.read("some", 0, 5),
                lambda: new.read("some", 0, 5),
                lambda: store.stats(["some"]),
            ):
                with pytest.raises(UserError, match=r"this process was forked .* start it by spawn"):
                    ask()
            os.write(tell, b"told so")
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(told, "rb") as answer:
        assert answer.read() == b"told so"
    os.waitpid(child, 0)
    assert store.read("some", 0, 5) == CONTENT[:5], "where it was forked from nothing has changed"


def certificate(folder: Path, name: str, of: str, address: str = "IP:127.0.0.1") -> tuple[Path, Path]:
    """Signs itself; ``of`` is CA:TRUE or CA:FALSE."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    words += [
        "-subj",
        "/CN=store",
        "-addext",
        f"subjectAltName={address}",
        "-addext",
        f"basicConstraints=critical,{of}",
    ]
    subprocess.run([*words, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")
@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "ca_bundle"])
def test_an_authority_of_ones_own_is_trusted_where_it_is_named(store_server, store, tmp_path, monkeypatch, variable):
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    mine, other = (certificate(tmp_path, name, "CA:FALSE") for name in ("mine", "other"))
    proxy = Faults(store_server, mine)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    def trust(file: Path) -> None:
        if variable == "ca_bundle":
            (tmp_path / "config").write_text(f"[default]\nca_bundle = {file}\n")
        else:
            monkeypatch.setenv(variable, str(file))
        clients.forget_clients()

    try:
        for file in (None, other[0]):
            if file is not None:
                trust(file)
            clients.forget_clients()
            with pytest.raises(UserError, match="certificate is not trusted; set AWS_CA_BUNDLE or SSL_CERT_FILE to"):
                open_store("s3://data/stores").read("some", 0, 5)
        trust(mine[0])
        assert open_store("s3://data/stores").read("some", 0, 5) == CONTENT[:5]
        assert ("SSL_CERT_FILE" in os.environ) == (variable == "SSL_CERT_FILE"), "nobody else's authorities change"
        if variable == "AWS_CA_BUNDLE":
            trust(tmp_path / "none.pem")
            with pytest.raises(UserError, match=r"AWS_CA_BUNDLE .*none.pem: no such file; give one"):
                open_store("s3://data/stores")
    finally:
        proxy.stop()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")
@pytest.mark.parametrize(
    ("of", "address", "line"),
    [
        ("CA:TRUE", "IP:127.0.0.1", r"is an authority's own \(CA:TRUE\)"),
        ("CA:FALSE", "DNS:other", "is for other names"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said(store_server, store, tmp_path, monkeypatch, of, address, line):
    proxy = Faults(store_server, pair := certificate(tmp_path, "mine", of, address))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(pair[0]))
    clients.forget_clients()
    try:
        with pytest.raises(UserError, match=f"the endpoint's certificate {line}"):
            open_store("s3://data/stores").read("some", 0, 5)
    finally:
        proxy.stop()


def test_https_of_a_server_that_speaks_http(store, faults, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", faults.endpoint.replace("http", "https"))
    clients.forget_clients()
    with pytest.raises(UserError, match="does not speak TLS; see to AWS_ENDPOINT_URL: http:// in place of https://"):
        open_store("s3://data/stores").read("some", 0, 5)


def test_a_region_that_is_none(store, monkeypatch):
    monkeypatch.setenv("AWS_REGION", "no region")
    clients.forget_clients()
    with pytest.raises(UserError, match="AWS_REGION 'no region' is no region; write one like us-east-1"):
        open_store("s3://data/stores")


@pytest.mark.parametrize(
    ("endpoint", "asked"),
    [
        ("https://host:9000", "https://data.host:9000"),
        ("https://data.host", "https://data.host"),
        ("http://host/data", "http://host/data"),
    ],
)
def test_a_bucket_that_is_a_host_is_put_before_the_endpoint(monkeypatch, endpoint, asked):
    assert clients._of_bucket(endpoint, "data") == endpoint
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    assert clients._of_bucket(endpoint, "data") == asked


def test_a_bucket_that_is_a_host_is_read(store, faults, monkeypatch):
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{faults.endpoint}/data")
    clients.forget_clients()
    assert open_store("s3://data/stores").read("some", 0, 5) == CONTENT[:5]
