"""What is asked of SLURM: limits in words, values that cannot be, and what is kept of it."""

import json

import pytest

from eyespot.cluster.launch.submission import Submission, minutes, read_submission, write_submission
from eyespot.data_pipeline.errors import UserError


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("12h", 720),
        ("30m", 30),
        ("2d", 2880),
        ("1d12h", 2160),
        ("1h30m", 90),
        ("90", 90),
        ("29:30", 30),  # minutes:seconds, as for SLURM
        ("12:00:00", 720),
        ("0:00:01", 1),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("1-12:00:00", 2160),
    ],
)
def test_time_limits_as_people_and_slurm_write_them(time, expected):
    assert minutes(time) == expected


@pytest.mark.parametrize("time", ["", "12 h", "12x", "h", "0", "0m", "-3h", "1-2-3", "1:2:3:4", "12H30"])
def test_what_is_no_time_limit(time):
    with pytest.raises(UserError, match=r"^time '.*': not a time limit; write it as 12h"):
        minutes(time)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nodes": 0}, "nodes 0: must be 1 or more"),
        ({"gpus_per_node": -1}, "gpus_per_node -1: must be 0 or more"),
        ({"processes_per_node": 0}, "processes_per_node 0"),
        ({"mem": "lots"}, "mem 'lots': not an amount of memory"),
        ({"time": "1m"}, "save_seconds 120: must be below the time limit, 1m"),
        ({"sbatch": ("--nice=3",)}, "sbatch '--nice=3': write it as key=value"),
        ({"setup": ("export HF_TOKEN=hf_abc",)}, "setup: holds the value of HF_TOKEN"),
        ({"setup": ("WANDB_API_KEY='abc' true",)}, "setup: holds the value of WANDB_API_KEY"),
    ],
)
def test_what_cannot_be_is_one_line(values, message):
    with pytest.raises(UserError) as caught:
        Submission(**values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_setup_may_name_a_secret_but_not_tell_it(monkeypatch):
    Submission(setup=("export HF_TOKEN=$(cat ~/.token)", 'export API_KEY="$MY_KEY"', "module load cuda"))
    monkeypatch.setenv("SITE_PASSWORD", "correct-horse")
    with pytest.raises(UserError, match="setup: holds the value of a secret"):
        Submission(setup=("login --with correct-horse",))


@pytest.mark.parametrize(
    ("values", "per_node", "all_nodes"),
    [({}, 1, 1), ({"nodes": 3, "gpus_per_node": 8}, 8, 24), ({"gpus_per_node": 8, "processes_per_node": 2}, 2, 2)],
)
def test_ranks_are_the_gpus_unless_said_otherwise(values, per_node, all_nodes):
    submission = Submission(**values)
    assert (submission.processes, submission.world_size) == (per_node, all_nodes)


def test_it_is_kept_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKING_PASSWORD", "correct-horse")
    words = ("pretrain", "m", "--x", "correct-horse")
    submission = Submission(nodes=2, time="2d", setup=("module load cuda",), words=words)
    path = tmp_path / "runs" / "one" / "cluster" / "submission.json"
    path.parent.mkdir(parents=True)
    write_submission(path, submission)
    assert "correct-horse" not in path.read_text()
    submission.words = ("pretrain", "m", "--x", "***")
    assert read_submission(path) == submission
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "of_tomorrow": 1}))
    with pytest.raises(UserError, match=r"submission.json: damaged or of another version \(.*of_tomorrow"):
        read_submission(path)
    with pytest.raises(UserError, match=f"run {path.parents[2]}/two: was never submitted"):
        read_submission(path.parents[2] / "two" / "cluster" / "submission.json")


OWNED = (
    *(
        "array=0-3",
        "nodes=4",
        "ntasks=8",
        "ntasks-per-node=2",
        "ntasks_per_node=2",
        "ntasks-per-gpu=1",
        "output=x",
        "error=x",
    ),
    *("requeue", "no-requeue", "no_requeue", "signal=TERM@10", "open-mode=truncate", "chdir=/", "wrap=true", "wait"),
    *("dependency=singleton", "kill-on-invalid-dep=no", "job-name=x", "time=1:00", "parsable", "test-only", "quiet"),
    *("arr=0-3", "outp=x", "no-r", "sig=TERM", "ntas=2", "wra=true", "n=4", "o=x", "gpus-per=2", "a"),
)


@pytest.mark.parametrize("entry", OWNED)
def test_what_launch_says_itself_cannot_be_said_again(entry):
    with pytest.raises(UserError, match=r"^sbatch '.*': \S+ is launch's to say; (use launch's own --|launch sets it)"):
        Submission(sbatch=(entry,))


@pytest.mark.parametrize(
    "entry", ["--array=0-3", "-a 0-3", "-N4", "N=4", "nodes 4", "x=1\n#SBATCH --array=0-3", "", "=1"]
)
def test_other_ways_to_write_it(entry):
    with pytest.raises(UserError, match="write it as key=value"):
        Submission(sbatch=(entry,))


@pytest.mark.parametrize(
    "entry", ["hold", "reservation=big", "exclusive", "gpus=4", "gres=gpu:4", "nodelist=a", "mail-type=END", "no-kill"]
)
def test_all_others_can(entry):
    assert Submission(sbatch=(entry,)).sbatch == (entry,)


def test_what_everybody_sees_of_a_job_holds_no_secret(monkeypatch):
    monkeypatch.setenv("GITHUB_PAT", "correct-horse")
    for values in ({"name": "a-correct-horse"}, {"sbatch": ("comment=correct-horse",)}, {"name": "hf_" + "a" * 30}):
        with pytest.raises(UserError, match=r"^(name|sbatch) .*\*\*\*: holds a secret") as caught:
            Submission(**values)
        assert "correct" not in str(caught.value)


@pytest.mark.parametrize("name", ["partition", "account", "qos", "constraint", "exclude", "name", "container"])
@pytest.mark.parametrize("more", ["\n#SBATCH --uid=0", "\rtouch x", "\x1b[31m", "\u2028touch x"])
def test_a_value_is_one_line_of_the_script(name, more):
    with pytest.raises(UserError, match=rf"^{name} a\\[nxu].*: holds a line break or another control character$"):
        Submission(**{name: f"a{more}"})
    with pytest.raises(UserError, match="in one line"):
        Submission(sbatch=(f"comment=a{more}",))
