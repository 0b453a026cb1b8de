"""Clients on a real server: profiles, renewed credentials, no credentials, other people's."""

import pickle

import pytest
from remote_store import KEY, SECRET, STRANGER, STRANGERS_SECRET

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
    with pytest.raises(Denied, match="SignatureDoesNotMatch") as caught:
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
