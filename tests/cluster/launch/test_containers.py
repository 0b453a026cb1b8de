"""How Python is started, here and in containers."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eyespot.cluster.launch.containers import requeue_lines, start_command
from eyespot.cluster.launch.submission import Submission
from eyespot.data_pipeline.errors import UserError

CODE, RUNS, DATA = Path("/runs/a/cluster/code"), [Path("/runs"), Path("/runs/a")], [Path("/data/in1k")]


def container(image: str, **values):
    return start_command(Submission(container=image, **values), CODE, RUNS, DATA)


def test_python_starts_with_the_frozen_code_and_deaf_to_usr1(tmp_path):
    code = tmp_path / "run with blanks" / "code"
    code.mkdir(parents=True)
    (code / "frozen_module.py").write_text("")
    (tmp_path / "cluster").mkdir()  # in the folder where it is started: must not be imported
    (tmp_path / "cluster" / "__init__.py").write_text("raise RuntimeError")
    command = start_command(Submission(), code, [], []).python
    script = (
        "import frozen_module, json, signal, sys; print(json.dumps([signal.getsignal(signal.SIGUSR1), sys.path[:2]]))"
    )
    script += "\ntry: import cluster\nexcept ImportError: print('none')"
    environment = {**os.environ, "PYTHONPATH": "/of/the/user"}
    done = subprocess.run(
        f"{command} -u -c {shlex.quote(script)}",
        shell=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [f'[{int(signal.SIG_IGN)}, ["{code}", "/of/the/user"]]', "none"], done.stderr


def test_pyxis_gets_image_and_mounts_as_options_of_srun():
    found = container("docker://nvcr.io/team/eyespot:1", container_mounts=("/scratch:/scratch",), gpus_per_node=8)
    assert found.srun == (
        "--container-image=docker://nvcr.io#team/eyespot:1",
        "--container-mounts=/runs:/runs,/data/in1k:/data/in1k:ro,/scratch:/scratch",
        "--no-container-mount-home",
    )
    assert shlex.split(found.python)[-1] == "python3"
    assert sys.executable not in found.python
    assert container("docker://team/eyespot").srun[0] == "--container-image=docker://team/eyespot"
    assert container("docker://localhost:5000/eyespot").srun[0] == "--container-image=docker://localhost:5000#eyespot"


def test_apptainer_stands_around_python(tmp_path):
    image = tmp_path / "eye spot.sif"
    image.touch()
    found = container(str(image), gpus_per_node=1)
    binds = "/runs:/runs,/data/in1k:/data/in1k:ro"
    words = shlex.split(found.python)
    assert words[:7] == ["apptainer", "exec", "--nv", "--no-home", "--bind", binds, str(image)]
    assert (words[7:9], words[-1], found.srun) == (["sh", "-c"], "python3", ())
    assert "--nv" not in container(str(image)).python
    anywhere = container("docker://team/eyespot", container_runtime="apptainer").python
    assert shlex.split(anywhere)[5] == "docker://team/eyespot"


@pytest.mark.parametrize(
    ("image", "runtime", "message"),
    [
        ("ubuntu", None, "container ubuntu: not an image; give docker://"),
        ("/absent/image.sqsh", None, "container /absent/image.sqsh: no such file"),
        ("image.sif", "pyxis", "use --container-runtime apptainer"),
        ("image.sqsh", "apptainer", "use --container-runtime pyxis"),
    ],
)
def test_images_that_cannot_run_are_one_line(image, runtime, message):
    with pytest.raises(UserError) as caught:
        container(image, container_runtime=runtime)
    assert message in str(caught.value)


def test_a_path_that_no_mount_can_say():
    with pytest.raises(UserError, match="/data/a,b cannot be mounted"):
        start_command(Submission(container="docker://team/eyespot"), CODE, RUNS, [Path("/data/a,b")])
    inside = start_command(Submission(container="docker://team/eyespot"), CODE, RUNS, [Path("/runs/optim.lr=1,seed=0")])
    assert inside.srun[1] == "--container-mounts=/runs:/runs"


@pytest.mark.parametrize(
    ("code", "restarts", "cancelled", "asked"),
    [
        (75, "", False, True),
        (75, "4", False, True),
        (75, "5", False, False),
        (75, "", True, False),
        (1, "", False, False),
        (0, "", False, False),
    ],
)
def test_a_stopped_run_in_a_container_is_requeued_from_outside(tmp_path, code, restarts, cancelled, asked):
    """The end of the script, with a scontrol that writes down what it is asked."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    mark = tmp_path / "second run"
    if cancelled:
        mark.touch()
    lines = [f"(exit {code})", *requeue_lines(5, [tmp_path / "first", mark])]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    if restarts:
        environment["SLURM_RESTART_COUNT"] = restarts
    done = subprocess.run(["bash", "-c", "\n".join(lines)], env=environment, check=False)
    assert done.returncode == code
    assert (tmp_path / "asked").exists() == asked
    if asked:
        assert (tmp_path / "asked").read_text() == "requeue 7\n"
