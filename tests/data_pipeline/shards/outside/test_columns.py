"""The right columns are found, asked for, or the line says what to ask for."""

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.outside.columns import Column, choose, class_names, parse_columns

IMAGE, NUMBER, TEXT = Column("img", "image"), Column("label", "number"), Column("caption", "text")


def names(columns: list[Column], asked: dict[str, str] | None = None, paths: bool = False) -> list[str | None]:
    return [column and column.name for column in choose("x.parquet", columns, asked or {}, paths)]


def test_what_is_clear_is_found():
    assert names([TEXT, NUMBER, IMAGE]) == ["img", "label", "caption", None]
    assert names([Column("thumbnail", "image"), Column("image", "image")]) == ["image", None, None, None]
    noted = [
        Column("a", "image"),
        Column("b", "image", "Image"),
        Column("kind", "number", "ClassLabel", ("x",)),
        NUMBER,
    ]
    assert names(noted) == ["b", "kind", None, None]
    fine = [IMAGE, Column("fine", "number", "ClassLabel"), Column("label", "number", "ClassLabel")]
    assert names(fine) == ["img", "label", None, None]
    assert names([Column("Path", "text"), Column("class", "text"), Column("split", "text")], paths=True) == [
        "Path",
        "class",
        None,
        "split",
    ]


def test_what_is_asked_for_is_taken():
    columns = [Column("a", "image"), Column("b", "image"), Column("c", "text"), NUMBER]
    asked = parse_columns(" image = b, label=c,caption=")
    assert asked == {"image": "b", "label": "c", "caption": ""}
    assert names(columns, asked) == ["b", "c", None, None]
    assert names([IMAGE, NUMBER], {"label": ""}) == ["img", None, None, None]


@pytest.mark.parametrize("text", ["", "image", "image=", "picture=a", "image=a,image=b", "label"])
def test_what_is_no_list_of_columns(text: str):
    with pytest.raises(UserError, match="image=img,label=fine_label"):
        parse_columns(text)


def test_what_is_not_clear_asks():
    two = [Column("a", "image"), Column("b", "image")]
    with pytest.raises(UserError, match=r"x\.parquet: several columns hold images \(a, b\).*--columns image=a"):
        names(two)
    labels = [IMAGE, Column("fine", "number", "ClassLabel"), Column("coarse", "number", "ClassLabel")]
    with pytest.raises(UserError, match=r"several columns are labels \(fine, coarse\).*--columns label=fine"):
        names(labels)
    with pytest.raises(UserError, match=r"no column holds the bytes of images.*it has caption"):
        names([TEXT])
    with pytest.raises(UserError, match=r"'caption' does not hold the bytes.*a list of paths is packed from a .csv"):
        names([TEXT, IMAGE], {"image": "caption"})
    with pytest.raises(UserError, match=r"no column 'x\\x1b' \(--columns label"):
        names([IMAGE], {"label": "x\x1b"})
    with pytest.raises(UserError, match="'img2' cannot be the label"):
        names([IMAGE, Column("img2", "image")], {"image": "img", "label": "img2"})
    with pytest.raises(UserError) as caught:
        names([Column(f"\x1b[{number}", "other") for number in range(1000)])
    assert len(str(caught.value)) < 500 and "\x1b" not in str(caught.value)


def test_the_names_of_classes_are_believed_only_where_they_are_some():
    assert class_names({"names": ["a", "b"]}) == ("a", "b")
    for feature in ({"names": ["a", "a"]}, {"names": [1]}, {"names": "ab"}, {}, [], None):
        assert class_names(feature) == ()
