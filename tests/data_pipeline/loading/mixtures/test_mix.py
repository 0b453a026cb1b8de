"""What a person writes to mix sources, and what is said of what cannot be understood."""

from fractions import Fraction

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.mix import is_mix, places_of, read_mix, whole_shards

FILE = """
[sources.in1k]
shards = "{folder}/in1k"
weight = 0.7

[sources.places]
shards = "places365"
weight = 3
cap = 500_000
"""


def test_a_text_names_sources_and_weights():
    mix = read_mix("data/in1k:0.7,/data/places/:.25,s3://bucket/web:0.05")
    assert [source.name for source in mix.sources] == ["in1k", "places", "web"]
    assert [source.shards for source in mix.sources] == ["data/in1k", "/data/places", "s3://bucket/web"]
    assert [source.weight for source in mix.sources] == [Fraction(7, 10), Fraction(1, 4), Fraction(1, 20)]
    assert {source.cap for source in mix.sources} == {None}


def test_sources_of_one_name_are_told_apart_by_the_folders_above():
    mix = read_mix("/data/a/train:1,/data/b/train:1,s3://bucket/c/train:2")
    assert [source.name for source in mix.sources] == ["a-train", "b-train", "c-train"]
    assert read_mix("/data/my images:1,x:1").sources[0].name == "my_images"


@pytest.mark.parametrize(
    "text",
    [
        "data/in1k",
        "",
        "s3://bucket/in1k",
        "http://host:8080",
        "data/a:b",
        "http://host:8080/x",
        "C:x/7",
        "http:/host:8080",
    ],
)
def test_one_folder_or_address_is_no_mixture(text):
    assert not is_mix(text) and places_of(text) == [text]


def test_a_folder_that_is_called_so_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a:0.7", "a,b", "a.toml"):
        assert is_mix(name)
        (tmp_path / name).mkdir()
        assert not is_mix(name)


def test_a_file_names_sources(tmp_path):
    path = tmp_path / "mix.toml"
    path.write_text(FILE.format(folder=tmp_path))
    one, other = read_mix(str(path)).sources
    assert (one.name, one.shards, one.weight, one.cap) == ("in1k", f"{tmp_path}/in1k", Fraction(7, 10), None)
    assert (other.name, other.shards, other.weight, other.cap) == (
        "places",
        f"{tmp_path}/places365",
        Fraction(3),
        500_000,
    )
    assert places_of(str(path)) == [str(path), f"{tmp_path}/in1k", f"{tmp_path}/places365"]
    path.write_text('sources.a = {shards = "s3://b/a", repeats = 2}\nsources.b = {shards = "b", repeats = 0.5}')
    assert [(source.shards, source.repeats) for source in read_mix(str(path)).sources] == [
        ("s3://b/a", Fraction(2)),
        (f"{tmp_path}/b", Fraction(1, 2)),
    ]


def test_a_mixture_is_called_the_same_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert whole_shards("a:0.7,s3://bucket/b:0.3") == f"{tmp_path}/a:0.7,s3://bucket/b:0.3"
    assert whole_shards("mix.toml") == f"{tmp_path}/mix.toml"
    assert whole_shards("a") == f"{tmp_path}/a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:-1,b:1", r"weight of a, -1: must be a number above 0"),
        ("a:0,b:1", r"weight of a, 0: must be"),
        ("a:nan,b:1", r"weight of a, nan: must be"),
        ("a:inf,b:1", r"weight of a, inf: must be"),
        ("a:1e999999999,b:1", r"weight of a, 1e999999999: must be"),
        ("a:1e-300,b:1", r"weight of a, 1e-300: must be"),
        ("a:0.7,b", r"b has no weight; write FOLDER:0\.7,FOLDER:0\.3"),
        ("a:0.7,b:many", r"b:many has no weight"),
        ("a,b", r"a has no weight"),
        ("a:0.7,", r"an empty source has no weight"),
        (",", r"an empty source has no weight"),
        (":0.7,b:1", r":0\.7 has no weight"),
        ("s3://b/x:0.7,http://host:8080", r"http://host:8080 has no weight"),
        ("nowhere.toml", r"nowhere\.toml: cannot be read \(No such file"),
    ],
)
def test_a_wrong_text_is_one_line(text, said):
    assert is_mix(text)
    with pytest.raises(UserError, match=said) as caught:
        read_mix(text)
    assert str(caught.value).startswith("data.shards ") and "\n" not in str(caught.value)


A, B = '[sources.a]\nshards = "a"\n', '[sources.b]\nshards = "b"\nweight = 1\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no sources; write a table"),
        ("x = ", "not TOML"),
        ("x = " + "[" * 2000, "not TOML"),
        ("x = " + "9" * 5000, "not TOML"),
        ("[sources.a]\n[sources.a]", "not TOML"),
        ("seed = 1\n" + B, "seed is unknown; write"),
        ("sources = 3", "no sources"),
        ("sources.a = 3", r"sources\.a: must be a table with shards, weight, repeats, cap"),
        (A, r"sources\.a: needs either weight or repeats"),
        (A + "weight = 1\nrepeats = 2", r"sources\.a: needs either weight or repeats"),
        (A + "weight = 0", r"sources\.a\.weight, 0: must be a number above 0"),
        (A + "weight = -0.5", r"sources\.a\.weight, -0\.5"),
        (A + "weight = nan", r"sources\.a\.weight, NaN"),
        (A + "weight = inf", r"sources\.a\.weight, Infinity"),
        (A + "weight = true", r"sources\.a\.weight, True"),
        (A + "weight = [1]", r"sources\.a\.weight, \[1\]"),
        (A + 'weight = "much"', r"sources\.a\.weight, much"),
        (A + "repeats = 0", r"sources\.a\.repeats, 0"),
        (A + "weight = 1\nwieght = 2", r"sources\.a\.wieght: is unknown; a source has shards, weight, repeats, cap"),
        (A + "weight = 1\ncap = 0", r"sources\.a\.cap 0: must be a whole number"),
        (A + "weight = 1\ncap = 1.5", r"sources\.a\.cap 1\.5"),
        (A + "weight = 1\ncap = true", r"sources\.a\.cap True"),
        ("[sources.a]\nweight = 1", r"sources\.a\.shards None: must be a folder or an address"),
        ("[sources.a]\nshards = 3\nweight = 1", r"sources\.a\.shards 3"),
        ('[sources."a/b"]\nshards = "a"\nweight = 1', r"sources\.a/b: no name of a source"),
        ('[sources."\\u001b[31m"]\nshards = "a"\nweight = 1', "no name of a source"),
        (A + "repeats = 1\n" + B, "some sources have weights and some repeats"),
    ],
)
def test_a_wrong_file_is_one_line(text, said, tmp_path):
    path = tmp_path / "mix.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        read_mix(str(path))
    assert "\n" not in str(caught.value) and "mix.toml" in str(caught.value)


def test_a_file_of_no_text_is_one_line(tmp_path):
    (tmp_path / "mix.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not TOML"):
        read_mix(str(tmp_path / "mix.toml"))


def test_spaces_around_sources_are_no_part_of_them():
    assert [source.shards for source in read_mix(" a:0.5, b:0.5 ").sources] == ["a", "b"]


def test_a_key_of_thousands_of_parts_is_refused_at_once(tmp_path):
    (tmp_path / "mix.toml").write_text("a" + ".a" * 200_000 + " = 1")
    with pytest.raises(UserError, match="a line of more than 200 dots"):
        read_mix(str(tmp_path / "mix.toml"))


def test_a_server_may_have_a_port_and_a_weight():
    for text in ("http://host:8080:0.5,a:1", "http:/host:8080:0.5,a:1"):
        assert [source.weight for source in read_mix(text).sources] == [Fraction(1, 2), 1]
        assert read_mix(text).sources[0].shards.endswith("/host:8080")
    assert not is_mix("http://[::1]:8080") and not is_mix("http://host:8080")
    (source,) = read_mix("http://[::1]:8080:0.5").sources
    assert (source.shards, source.weight) == ("http://[::1]:8080", Fraction(1, 2))
