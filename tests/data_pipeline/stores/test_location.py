"""What a text names: a path or an address; whole wherever somebody is."""

from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.stores.location import Address, is_address, location_of, whole_location


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("s3://bucket/in1k", Address("s3", "bucket", "in1k")),
        ("S3://bucket//a/b/", Address("s3", "bucket", "a/b")),
        ("gs://bucket", Address("gs", "bucket", "")),
        ("https://host:8080/a", Address("https", "host:8080", "a")),
        ("http://[::1]:8080/a", Address("http", "[::1]:8080", "a")),
        ("az://$web/a", Address("az", "$web", "a")),
        ("https://host/100% of it/a b/ü", Address("https", "host", "100% of it/a b/ü")),
        ("hf://datasets/me/mine/train", Address("hf", "datasets/me/mine", "train")),
        ("hf://me/mine@v1", Address("hf", "datasets/me/mine@v1", "")),
        ("file:///data/x", Path("/data/x")),
        ("data/in1k/", Path("data/in1k")),
        ("a:0.7,b:0.3", Path("a:0.7,b:0.3")),
        ("", Path()),
    ],
)
def test_names(text, found):
    assert location_of(text) == found
    assert location_of(location_of(text)) == found and location_of(str(location_of(text))) == found
    assert location_of(Path(text)) == found, "a path made of an address is one again"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gopher://x/y", "no store is called gopher://; known are s3://"),
        ("s3://", "incomplete; write s3://BUCKET/FOLDER"),
        ("hf://datasets/me", "incomplete; write hf://datasets/USER/NAME/FOLDER"),
        ("https://host/a?sig=abc", "^https://host/a: an address of a folder has no \\? or #"),
        ("https://me:secret@host/a", r"^https://\.\.\.@host/a: an address has no name and password in it"),
        ("http://host/a%20b", "write the letters themselves, not as a browser encodes them: host/a b"),
        ("s3://bucket/../other", "no names in a store"),
        ("s3://AK:secret@bucket/x", r"^s3://\.\.\.@bucket/x: an address has no name and password in it"),
        ("hf://me:hf_token@datasets/me/mine", r"^hf://\.\.\.@datasets/me/mine: an address has no name and"),
        ("s3://my bucket/x", "'my bucket' is no name of a bucket; write s3://BUCKET/FOLDER"),
        ("gs://bucket:80/x", "'bucket:80' is no name of a bucket"),
        ("http://host:99999/x", "'host:99999' is no host; write http://HOST/FOLDER"),
        ("http://[::1/x", r"'\[::1' is no host"),
        ("https://a host/x", "'a host' is no host"),
    ],
)
def test_what_names_nothing_is_one_line(text, why):
    with pytest.raises(UserError, match=why):
        location_of(text)
    assert is_address(text)


def test_parts():
    place = location_of("s3://bucket/in1k") / "train"
    assert (str(place), place.name, str(place.parent)) == ("s3://bucket/in1k/train", "train", "s3://bucket/in1k")
    assert str(location_of("s3://bucket") / "train") == "s3://bucket/train"
    assert str(location_of("s3://bucket").parent) == "s3://bucket" and location_of("s3://bucket").name == "bucket"


def test_whole(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somebody")
    assert whole_location("data/in1k/") == f"{tmp_path}/data/in1k"
    assert whole_location("s3://bucket/in1k/") == "s3://bucket/in1k"
    assert whole_location("~/x") == f"{tmp_path}/~/x" and whole_location("~/x", home=True) == "/somebody/x"
