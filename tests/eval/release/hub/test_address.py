"""Addresses of a hub, taken apart and put together."""

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.hub.address import HubAddress, is_hub, parse_address


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("hf://org/name", "org/name", "main"),
        ("hf://Org.1/n_a-m.e@v1.0", "Org.1/n_a-m.e", "v1.0"),
        ("hf://org/name@feature/one", "org/name", "feature/one"),
        ("hf://org/name@" + "a1" * 20, "org/name", "a1" * 20),
    ],
)
def test_addresses(text: str, repo: str, revision: str):
    found = parse_address(text)
    assert is_hub(text) and (found.repo, found.revision) == (repo, revision) and str(found) == text
    assert (found.commit is not None) == (len(revision) == 40)
    assert str(HubAddress("a/b").at("v2")) == "hf://a/b@v2"


def test_secrets_in_what_is_none():
    with pytest.raises(UserError, match=r"write it as hf://ORG/NAME") as error:
        parse_address("hf://me:hunter22@org/name")
    assert "hunter22" not in str(error.value)
