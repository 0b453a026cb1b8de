"""Whose keys count, that they are read anew, and that no message or repr shows them."""

import json
import sys
from datetime import UTC, datetime

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.stores.aws_credentials import find_keys, profile_settings

SECRETS = ("secret-of-file", "secret-of-work", "secret-of-env")


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "DEFAULT_PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.delenv("AWS_CONFIG_FILE", raising=False)
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = AKFILE\naws_secret_access_key = secret-of-file\n"
        "[work]\naws_access_key_id = AKWORK\naws_secret_access_key = secret-of-work\naws_session_token = tok\n"
    )
    (tmp_path / ".aws" / "config").write_text(
        "[default]\nregion = eu-west-1\n[profile work]\nendpoint_url = http://store:9000\n[profile role]\n"
        "role_arn = arn:x\nsource_profile = work\n[profile empty]\n[profile mine]\n"
        f"credential_process = {sys.executable} {tmp_path}/give.py\n"
    )
    return tmp_path


def test_the_environment_before_the_profile(home, monkeypatch):
    found = find_keys()
    assert found is not None and (found.access_key_id, found.token) == ("AKFILE", None)
    assert profile_settings()["region"] == "eu-west-1"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-env")
    found = find_keys()
    assert found is not None and found.access_key_id == "AKENV" and not any(secret in repr(found) for secret in SECRETS)
    monkeypatch.setenv("AWS_PROFILE", "work")
    found = find_keys()
    assert found is not None and (found.access_key_id, found.token) == ("AKWORK", "tok"), "who names a profile means it"
    assert profile_settings()["endpoint_url"] == "http://store:9000"
    monkeypatch.setenv("AWS_PROFILE", "empty")
    assert find_keys() is None, "the client looks further: a machine's role, say"


def test_a_renewed_file_is_read_anew(home):
    before = find_keys()
    file = home / ".aws" / "credentials"
    file.write_text(file.read_text().replace("AKFILE", "AKNEW"))
    after = find_keys()
    assert before is not None and after is not None and before != after and after.access_key_id == "AKNEW"
    expires = after.credential()["expires_at"]
    assert expires > datetime.now(UTC), "and is asked for again by then"


def test_a_program(home, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "mine")
    said = {"Version": 1, "AccessKeyId": "AKP", "SecretAccessKey": "s", "Expiration": "2040-01-01T00:00:00Z"}
    (home / "give.py").write_text(f"print({json.dumps(json.dumps(said))})")
    found = find_keys()
    assert found is not None and found.access_key_id == "AKP" and found.expires == datetime(2040, 1, 1, tzinfo=UTC)
    (home / "give.py").write_text("print('secret-of-work', nonsense)")
    with pytest.raises(UserError, match=r"credential_process of profile 'mine': gave no credentials .*run it by hand"):
        find_keys()


@pytest.mark.parametrize(
    ("profile", "line"),
    [("nobody", "AWS_PROFILE 'nobody': neither"), ("role", "takes a role or single sign-on; pip install boto3")],
)
def test_what_is_no_profile_is_one_line(home, monkeypatch, profile, line):
    monkeypatch.setenv("AWS_PROFILE", profile)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UserError, match=line):
        find_keys()


def test_a_broken_file_is_one_line_without_its_text(home):
    (home / ".aws" / "credentials").write_text("aws_secret_access_key = secret-of-file\n")
    with pytest.raises(UserError, match="credentials: cannot be read as profiles") as caught:
        find_keys()
    assert "secret-of-file" not in str(caught.value) and caught.value.__cause__ is None
    (home / ".aws" / "credentials").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no text"):
        find_keys()
