"""TOML is read with the lines of its keys, and what is wrong with it is said with the line."""

import os

import pytest

from eyespot.cluster.config_files.toml_file import read_toml
from eyespot.data_pipeline.errors import UserError

TEXT = '''# comment = 1
recipe = "mae_tiny" # [data]
a."b.c" . d = """
x = 1
[data]
"""
list = [ # ]
  "]", 'y = 2', 1,
]
inline = {shards = "x", deep = {one = 1}}

[ data ]
"batch-size" = 3
[optim.inner]   # the rest
lr = 1e-3
more = \'\'\'
lr = 2\'\'\'
[[views]]
size = 3
'''


def written(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_every_key_has_its_line(tmp_path):
    path = written(tmp_path, TEXT.replace("\n", "\r\n"))
    file = read_toml(path)
    assert file.values["data"] == {"batch_size": 3} and file.values["a"]["b.c"]["d"] == "x = 1\n[data]\n"
    expected = {"recipe": 2, "list": 7, "inline": 10, "inline.shards": 10, "inline.deep.one": 10, "data": 12}
    expected |= {"data.batch_size": 13, "optim.inner": 14, "optim.inner.lr": 15, "optim.inner.more": 16, "views": 18}
    assert {name: int(file.place(name).rpartition(":")[2]) for name in expected} == expected
    assert file.place("seed") == str(path)
    assert file.says("optim.inner.lr") and file.says("list.0") and not file.says("optim.lr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1\nsteps 5\n", r"run\.toml:2: 'steps 5' is not TOML: expected '=' .*; write name = value"),
        ("shards = data/digits\n", r'run\.toml:1: .* is not TOML: invalid value; text stands in "quotes"'),
        ("track = True\n", "run.toml:1: .*true and false are small"),
        ("seed = 1\nseed = 2\n", "run.toml:2: 'seed = 2' .*given twice; leave one out"),
        ("[data]\n[optim]\n[data]\n", "run.toml:3: .*table is given twice"),
        ("[data]\nbatch_size = 1\nbatch-size = 2\n", r"run\.toml:3: data\.batch-size is given twice, with - and"),
        ("seed = 1\nlist = [1,\n", r"run\.toml:2: .*is not TOML"),
        (b"seed = 1\n# \xff\n", r"run\.toml:2: byte 0xff is no UTF-8"),
        ('{"seed": 1}', r"run\.toml:1: is JSON, not TOML; a run is repeated with --from"),
        ("a = " + "[" * 100_000, "nested too deep"),
        ("a = " + "[" * 60 + "]" * 60, "nested too deep"),
        (".".join("a" * 5000) + " = 1", "nested too deep"),
        ("seed = " + "9" * 5000, r"run\.toml"),
        ("#" * (2**20 + 1), "over 1,048,576 bytes"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read_toml(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(UserError, match=r"is a folder; name a file, or repeat a run with --from"):
        read_toml(tmp_path)
    with pytest.raises(UserError, match=r"no\.toml: cannot be read \(No such file"):
        read_toml(tmp_path / "no.toml")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a plain file"):
        read_toml(tmp_path / "pipe")


def test_an_empty_file_says_nothing(tmp_path):
    assert read_toml(written(tmp_path, "\ufeff# nothing\n")).values == {}
