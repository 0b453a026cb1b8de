"""Site defaults: which value wins, and what a wrong file is told."""

import os

import pytest

from eyespot.cluster.launch.site_profiles import load_profile, site_file
from eyespot.cluster.launch.submission import Submission
from eyespot.data_pipeline.errors import UserError

SITE = """
[default]
partition = "gpu"
gpus-per-node = 4
setup = ["module load cuda"]
[big]
nodes = 16
qos = "long"
"""
BESIDE = """
[default]
partition = "lab"
setup = ["source env.sh"]
[big]
nodes = 32
[quiet]
doctor = false
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    site_file().parent.mkdir(parents=True)
    site_file().write_text(SITE)
    (tmp_path / "cluster.toml").write_text(BESIDE)
    return site_file(), tmp_path / "cluster.toml"


def test_beside_the_run_wins_over_the_site_and_a_profile_over_both(files):
    site, beside = files
    plain = load_profile(None, beside)
    lines = ("module load cuda", "source env.sh")
    assert plain.values == {"partition": "lab", "gpus_per_node": 4, "setup": lines}
    assert plain.origins["partition"] == f"{beside} [default]"
    assert plain.origins["gpus_per_node"] == f"{site} [default]"
    assert plain.origins["setup"] == f"{site} [default], {beside} [default]"
    big = load_profile("big", beside)
    assert big.values == {**plain.values, "nodes": 32, "qos": "long"}
    assert Submission(**big.values).world_size == 128
    assert load_profile("quiet", beside).values["doctor"] is False
    assert load_profile(None, None).values["partition"] == "gpu"
    assert load_profile("default", beside).values == plain.values


def test_without_files_nothing_applies(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_profile(None, tmp_path / "cluster.toml").values == {}


def test_an_unknown_profile_is_told_which_there_are(files):
    with pytest.raises(UserError, match=r"profile 'huge': not in .* and .*; there is big, quiet$"):
        load_profile("huge", files[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[default]\npartitoin = 'x'", "key 'partitoin' is unknown; perhaps you meant partition"),
        ("[default]\nwords = ['x']", "key 'words' is unknown"),
        ("[default]\nnodes = 'two'", "nodes = 'two': must be a whole number"),
        ("[default]\nnodes = true", "nodes = True: must be a whole number"),
        ("[default]\ntime = 12", "time = 12: must be a string"),
        ("[default]\ndoctor = 'no'", "doctor = 'no': must be true or false"),
        ("[default]\nsetup = 'module load cuda'", "must be a list of strings"),
        ("[default]\ncontainer_runtime = 'docker'", "container_runtime = 'docker': must be pyxis or apptainer"),
        ("partition = 'x'", "partition stands in no table; put it below [default]"),
        ("[default", "cannot be read ("),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(files, text, message):
    files[1].write_text(text)
    with pytest.raises(UserError) as caught:
        load_profile(None, files[1])
    assert str(caught.value).startswith(f"{files[1]}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fill", ["deep", "pipe", "device", "large"])
def test_a_file_that_is_no_profile_is_refused_at_once(tmp_path, fill):
    path = tmp_path / "cluster.toml"
    if fill == "pipe":
        os.mkfifo(path)
    elif fill == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("[default]\nx = " + "[" * 50_000 if fill == "deep" else "#" * 2_000_000)
    with pytest.raises(UserError, match=f"^{path}: "):
        load_profile(None, path)
