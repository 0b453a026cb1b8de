"""Who may see the pages."""

import pytest

from eyespot.cluster.web.access import Access, is_loopback


def test_this_machine_alone_asks_for_no_token_unless_told_to():
    assert Access("127.0.0.1").token is None and Access("127.0.0.1").admits(None, None, "c")
    assert Access("127.0.0.1", with_token=True).token


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_others_need_the_token(host):
    access = Access(host)
    token = access.token or ""
    assert len(token) >= 32 and token != Access(host).token
    assert access.admits(f"other=1; c={token}", None, "c") and access.admits(None, f"Bearer {token}", "c")
    for cookies, header in (
        (None, None),
        (f"d={token}", None),
        ("c=", None),
        (None, "Bearer "),
        (None, f"Basic {token}"),
    ):
        assert not access.admits(cookies, header, "c")
    assert not access.is_token("") and not access.is_token(token[:-1]) and not access.is_token("ä\udcff")
    assert access.is_token(token)


@pytest.mark.parametrize(
    "other",
    ['ui={"a":1}', "a[b]=1", "x y=2", "alone", "=", "path=/", "Expires=never", "name=ä", 'q="open', "c=old", "a,b/c=1"],
)
def test_cookies_of_other_programs_on_this_machine_do_not_hide_ours(other):
    access = Access("127.0.0.1", with_token=True)
    assert access.admits(f"{other}; c={access.token}", None, "c") and access.admits(
        f"c={access.token};{other}", None, "c"
    )
    assert not access.admits(other, None, "c") and not access.admits(f"{other}; d={access.token}", None, "c")


@pytest.mark.parametrize(
    "header", ["localhost", "localhost:8000", "127.0.0.1:7373", "[::1]:7373", "LOCALHOST", "127.9.9.9"]
)
def test_names_of_this_machine(header):
    assert Access("127.0.0.1").knows_host(header)


@pytest.mark.parametrize(
    "header", [None, "", "evil.com", "localhost.evil.com", "10.0.0.1:7373", "[", "a b", "127.0.0.1.evil.com"]
)
def test_names_of_strangers(header):
    """A page of theirs whose name leads here would otherwise read ours."""
    assert not Access("127.0.0.1").knows_host(header)


def test_an_open_host_is_known_by_its_numbers_and_no_stranger_s_name():
    access = Access("0.0.0.0")
    assert access.knows_host("10.0.0.1:7373") and not access.knows_host("evil.com:7373")


def test_loopback():
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and not is_loopback("0.0.0.0")
