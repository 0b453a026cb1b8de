"""Lists of paths, as tools and people write them, and what is wrong in them."""

import json
import os
from pathlib import Path

import pytest
from foreign_tables import jpeg, listed, opened, skipped

from eyespot.data_pipeline.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/ü 4.jpg")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(jpeg(number))
    return tmp_path / "set"


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def test_every_kind_of_list_says_the_same(folder: Path, tmp_path: Path):
    rows = [("b/3.jpg", "dog", 'two "dogs",\nrunning'), ("./a/1.jpg", "cat", ""), (f"{folder}/b/ü 4.jpg", "", "x")]
    expected = {"": [(jpeg(3), None, b"x\n"), (jpeg(0), "cat", None), (jpeg(2), "dog", b'two "dogs", running\n')]}
    text = "file,label,caption\n" + "".join(
        ",".join(f'"{part.replace(chr(34), 2 * chr(34))}"' for part in row) + "\r\n" for row in rows
    )
    lines = "\n\n".join(json.dumps(dict(zip(("file", "label", "caption"), row, strict=True))) for row in rows)
    for path in (
        written(folder / "list.csv", "\ufeff" + text),
        written(folder / "list.tsv", text.replace(",", "\t").replace('dogs""\t', 'dogs"",')),
        written(folder / "list.jsonl", lines),
    ):
        source = opened(path, tmp_path / "spool")
        assert listed(source) == expected, path
        assert skipped(source) == {"an empty caption (the image is taken)": 1} and source.name == "list"


def test_a_list_without_labels_is_classed_by_folders_and_may_name_splits(folder: Path, tmp_path: Path):
    paths = "path\na/1.jpg\na/2.jpg\nb/3.jpg\n"
    assert [label for _, label, _ in listed(opened(written(folder / "x.csv", paths), tmp_path / "s"))[""]] == list(
        "aab"
    )
    split = "image,split,y\na/1.jpg,train,7\na/2.jpg,test,1\nb/3.jpg,odd,0\n"
    source = opened(written(folder / "y.csv", split), tmp_path / "s", label="y")
    assert listed(source) == {"train": [(jpeg(0), "7", None)], "test": [(jpeg(1), "1", None)]}
    assert skipped(source) == {"of a split that is neither train, val nor test": 1}
    assert source.options == {"columns": {"label": "y"}} and len(source.classes) == 8


def test_what_a_list_names_that_is_no_file_is_counted(folder: Path, tmp_path: Path):
    os.mkfifo(folder / "pipe.jpg")
    names = ["a/1.jpg", "gone.jpg", "a", "pipe.jpg", "", "https://x.org/1.jpg", "x" * 5000, "a/1.jpg/x"]
    rows = [json.dumps({"file": name}) for name in names]
    rows += ['{"file": 3}', '{"file": "a\\u0000b"}', '{"file": "\\ud800"}']
    source = opened(written(folder / "x.jsonl", "\n".join(rows)), tmp_path / "s")
    assert [item.name for item in source.splits[""]] == ["a/1.jpg"]
    assert skipped(source) == {
        "no such file": 3,
        "a folder, a device, a pipe or the like": 2,
        "a row without a path": 2,
        "an address, not a path (fetch them first, for instance with img2dataset)": 1,
        "a file that cannot be opened": 2,
    }


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("x.csv", "", "is empty"),
        ("x.csv", "file,label\n", "is empty"),
        ("x.csv", "a,b\n1,2\n", "no column holds the paths of images by its name; it has a, b"),
        ("x.csv", "file,file\na,b\n", "each once"),
        ("x.csv", "file,label\na,b,c\n", "line 2 has 3 fields.*quote what holds a comma"),
        ("x.csv", 'file\n"a\n' + "x" * 300_000, "line 4 is no CSV"),
        ("x.csv", "file\n" + "x" * (2**20 + 5), "line 2 has more than"),
        ("x.jsonl", "[1]", "line 1 is not"),
        ("x.jsonl", "[" * 200_000, "line 1 is no JSON"),
        ("x.jsonl", '{"file": "a/1.jpg"}\n{x}', "line 2 is no JSON"),
    ],
)
def test_what_is_no_list(folder: Path, tmp_path: Path, name: str, text: str, match: str):
    with pytest.raises(UserError, match=match) as caught:
        opened(written(folder / name, text), tmp_path / "s")
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_unicode_and_columns_that_are_asked_for(folder: Path, tmp_path: Path):
    strange = os.fsdecode(b"a/\xff.jpg")
    (folder / strange).write_bytes(jpeg(9))
    source = opened(written(folder / "x.csv", f"where,file\n{strange},b/3.jpg\n"), tmp_path / "s", image="where")
    assert [item.name for item in source.splits[""]] == ["a/\\xff.jpg"] and listed(source)[""][0][0] == jpeg(9)
