"""Who we are to S3: the environment's keys, a profile's, or what a profile's program prints; read anew as they age.

Only what lies on this machine is read here. Roles of containers, web identities and instances are left to the store's
client, which renews them itself; roles and single sign-on of profiles to boto3, where it is installed.
"""

import configparser
import json
import os
import shlex
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from eyespot.data_pipeline.errors import UserError

REREAD = timedelta(minutes=10)
"""A file's keys count as good for so long: whoever renews them writes the file."""
PROGRAM_SECONDS = 60.0
_BOTO3 = ("role_arn", "sso_session", "sso_start_url", "login_session")


@dataclass(frozen=True, slots=True)
class Keys:
    """Of one identity."""

    access_key_id: str
    secret_access_key: str
    token: str | None
    expires: datetime | None
    """None = nobody says."""
    origin: str
    """Where they stand, for people."""

    def __repr__(self) -> str:
        return f"Keys({self.origin})"  # never themselves

    def credential(self) -> dict[str, Any]:
        """As obstore asks for them."""
        soon = datetime.now(UTC) + REREAD
        return {
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "token": self.token,
            "expires_at": soon if self.expires is None else self.expires,
        }


def profile_name() -> str:
    """The profile that the environment chooses."""
    return os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"


def profile_settings() -> dict[str, str]:
    """What config and credentials file say of the profile; the credentials file counts more.

    Raises:
        UserError: a file cannot be read, or the profile that was asked for is in none.
    """
    name, found = profile_name(), dict[str, str]()
    known = False
    for path, section in (
        (_file("AWS_CONFIG_FILE", "config"), name if name == "default" else f"profile {name}"),
        (_file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), name),
    ):
        sections = configparser.RawConfigParser(strict=False, default_section="no section of that name")
        try:
            sections.read_string(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "no text"
            raise UserError(f"{path}: cannot be read ({why}); see to it, or set AWS_ACCESS_KEY_ID") from error
        except configparser.Error as error:  # its message repeats the line, which may be a key
            raise UserError(f"{path}: cannot be read as profiles ({type(error).__name__}); see to it") from None
        if sections.has_section(section):
            known = True
            found |= dict(sections.items(section))
    if not known and name != "default":
        raise UserError(
            f"AWS_PROFILE {name!r}: neither ~/.aws/config nor ~/.aws/credentials has it; see: aws configure"
        )
    return found


def find_keys() -> Keys | None:
    """Those of the environment, else of the profile; None = neither has some, and the client looks further.

    Raises:
        UserError: the profile cannot be read, or says something that needs boto3.
    """
    said = os.environ
    if said.get("AWS_ACCESS_KEY_ID") and said.get("AWS_SECRET_ACCESS_KEY") and "AWS_PROFILE" not in said:
        token = said.get("AWS_SESSION_TOKEN") or None
        origin = "AWS_ACCESS_KEY_ID of the environment"
        return Keys(said["AWS_ACCESS_KEY_ID"], said["AWS_SECRET_ACCESS_KEY"], token, None, origin)
    settings, name = profile_settings(), profile_name()
    if settings.get("aws_access_key_id") and settings.get("aws_secret_access_key"):
        return Keys(
            settings["aws_access_key_id"],
            settings["aws_secret_access_key"],
            settings.get("aws_session_token") or None,
            None,
            f"profile {name!r} of ~/.aws",
        )
    if program := settings.get("credential_process"):
        return _keys_of_program(program, name)
    if any(setting in settings for setting in _BOTO3):
        return _keys_of_boto3(name)
    return None


def _keys_of_program(program: str, name: str) -> Keys:
    """What ``credential_process`` of the person's own profile prints."""
    origin = f"credential_process of profile {name!r}"
    try:
        done = subprocess.run(shlex.split(program), capture_output=True, timeout=PROGRAM_SECONDS, check=True)
        said = json.loads(done.stdout)
        expires = datetime.fromisoformat(said["Expiration"]) if said.get("Expiration") else None
        return Keys(said["AccessKeyId"], said["SecretAccessKey"], said.get("SessionToken"), expires, origin)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{origin}: gave no credentials ({type(error).__name__}); run it by hand") from None


def _keys_of_boto3(name: str) -> Keys:
    """Of a role or single sign-on, which boto3 knows how to ask for."""
    origin = f"profile {name!r} of ~/.aws"
    try:
        import boto3  # pyright: ignore[reportMissingImports]  (whoever has such profiles has it)
    except ImportError:
        raise UserError(
            f"{origin}: takes a role or single sign-on; pip install boto3, or give the profile a credential_process:"
            f" aws configure export-credentials --profile {shlex.quote(name)}"
        ) from None
    try:
        found = boto3.Session(profile_name=name).get_credentials()
        if found is None:
            raise ValueError("none")
        frozen = found.get_frozen_credentials()
    except Exception as error:  # botocore's own kinds, whose messages are long
        raise UserError(f"{origin}: gave no credentials ({type(error).__name__}); run: aws sso login") from error
    return Keys(frozen.access_key, frozen.secret_key, frozen.token, None, origin)


def _file(variable: str, name: str) -> Path:
    said = os.environ.get(variable)
    return Path(said).expanduser() if said else Path.home() / ".aws" / name
