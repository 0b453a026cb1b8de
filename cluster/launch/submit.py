"""Submits runs to SLURM through submitit, or starts one here under torchrun; both from frozen code and settings."""

import contextlib
import io
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from submitit.core.core import Job
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from eyespot.cluster import slurm
from eyespot.cluster.launch import containers
from eyespot.cluster.launch.code_snapshot import freeze_code, write_run
from eyespot.cluster.launch.evaluations import check_evaluation, evaluations, others
from eyespot.cluster.launch.submission import Submission, minutes, write_submission
from eyespot.cluster.launch.sweep import SweepMember
from eyespot.cluster.launch.torchrun import run_here
from eyespot.cluster.status.records import JobLine, Records
from eyespot.cluster.status.run_state import read_run_state
from eyespot.cluster.supervisor.node_job import NodeJob
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.mix import places_of
from eyespot.data_pipeline.order.stream_state import check_lanes
from eyespot.data_pipeline.stores.location import location_of
from eyespot.data_pipeline.terminal import one_line, plural
from eyespot.pretrain import trusted_recipes
from eyespot.pretrain.loop.first_checks import check_beginning
from eyespot.pretrain.loop.run_data import open_shards
from eyespot.pretrain.run_record import RunRecord
from eyespot.pretrain.tracking.mirrors import check_mirrors

_PLACEHOLDER = "JOB"
"""Stands for the id of a job that is not submitted yet."""


class Executor(SlurmExecutor):
    """Writes the sbatch script and hands it to SLURM."""

    @classmethod
    def affinity(cls) -> int:
        """Asked whether SLURM is here: the launch looks itself, and a dry run needs none."""
        return 2


def check(submission: Submission, member: SweepMember) -> None:
    """Finds on the login node what would stop the run on the others.

    Whether the method can be made and its first weights fit is asked of a run that begins, and outside images: those
    have other packages.

    Raises:
        UserError: the shards, the batch, first weights or what follows the run do not fit, or a package is missing.
        Outage: the file system, or the hub, does not give them.
    """
    run = member.run
    if submission.container is None:  # an image has packages of its own
        check_mirrors(tensorboard=run.tensorboard, wandb=run.wandb)
    shards = open_shards(run.data)
    ranks, data, num_samples = submission.world_size, run.data, shards.manifest.num_samples
    if data.batch_size % (parts := ranks * data.accumulate):
        raise UserError(
            f"data.batch_size {data.batch_size}: must be a multiple of {parts} ({plural(submission.nodes, 'node')} x"
            f" {plural(submission.processes, 'process')} x {plural(data.accumulate, 'micro-batch')}), for instance"
            f" {parts * max(1, round(data.batch_size / parts))}"
        )
    check_lanes(data.lanes, data.batch_size // data.accumulate)
    if data.batch_size // data.accumulate > num_samples:
        raise UserError(f"data.batch_size {data.batch_size}: more than the {plural(num_samples, 'sample')}; lower it")
    if submission.container is None and not RunRecord.path(run.run_dir).exists():
        check_beginning(run, shards, data.read_patience_seconds)
    for _, protocol, _, judged_on, *_ in evaluations(submission, member):
        own = judged_on == str(data.shards)
        check_evaluation(protocol, judged_on, shards if own else others(judged_on), run)


def check_place(submission: Submission, members: Sequence[SweepMember], *, local: bool) -> None:
    """Whether this machine can start what is asked for.

    Raises:
        UserError: there is no SLURM; or it is to be done here, and is more than one run by this machine's Python.
    """
    if not local and not slurm.available():
        raise UserError("launch: no SLURM on this machine (no sbatch); start the run here with --local")
    if not local and len(members) > (most := slurm.max_array_size()):
        raise UserError(
            f"sweep: {len(members):,} runs, and an array of this cluster has at most {most:,} (MaxArraySize);"
            " submit them in several sweeps"
        )
    if local and submission.nodes > 1:
        raise UserError(f"nodes {submission.nodes}: --local has one; use --processes-per-node, or leave out --local")
    if local and (len(members) > 1 or submission.then):
        raise UserError("local: starts one run, and nothing after it; leave out --sweep and --then")
    if local and submission.container is not None:
        raise UserError(f"container {submission.container}: --local starts none; start the command in it yourself")


def check_folder(run_dir: Path) -> None:
    """Whether a run can be launched into the folder now.

    Raises:
        UserError: a job or a process of this run lives, or the folder cannot be written.
    """
    if one_line(str(run_dir)) != str(run_dir):  # its lines would be lines of the sbatch script
        raise UserError(f"run_dir {run_dir}: holds a line break or another control character; choose another --run-dir")
    existing = next(folder for folder in (run_dir, *run_dir.parents) if folder.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise UserError(f"run_dir {run_dir}: {existing} cannot be written; choose another --run-dir")
    lines = Records(run_dir).jobs()
    try:
        found = slurm.find_jobs([line.job for line in lines])
    except slurm.SlurmError as error:
        raise UserError(f"run_dir {run_dir}: was submitted before, and whether that job lives: {error}") from error
    if alive := [found[line.job] for line in lines if slurm.alive(found.get(line.job))]:
        raise UserError(
            f"run_dir {run_dir}: job {alive[0].id} of this run lives ({slurm.in_words(alive[0])});"
            f" stop it first with: eyespot cancel {run_dir}"
        )
    if (holder := read_run_state(run_dir).holder) is not None:
        raise UserError(f"run_dir {run_dir}: in use by process {holder} of this machine; wait for it, or stop it first")


def code_folder(folder: Path, members: Sequence[SweepMember]) -> Path:
    """Where the code of a launch into ``folder`` is frozen.

    The runs of a sweep share a copy. A later sweep into the same folder gets one of its own: the first may be queued.
    """
    code = Records(folder).code
    if members[0].run.run_dir == folder:
        return code
    names = itertools.chain([code], (code.with_name(f"{code.name}-{number}") for number in itertools.count(2)))
    return next(path for path in names if not path.exists())


def freeze(code: Path, members: Sequence[SweepMember]) -> list[str]:
    """Writes what the jobs will run: the code once, and for each run its settings; returns what to tell of the code."""
    said = freeze_code(code, members[0].recipe)
    for member in members:
        records = Records(member.run.run_dir)
        records.folder.mkdir(parents=True, exist_ok=True)
        if records.code != code:
            if records.code.is_dir() and not records.code.is_symlink():
                shutil.rmtree(records.code)
            records.code.unlink(missing_ok=True)
            records.code.symlink_to(os.path.relpath(code, records.folder))
        write_run(member.run.run_dir, member.recipe, member.run)
    return said


def submit(folder: Path, code: Path, submission: Submission, members: Sequence[SweepMember]) -> list[str]:
    """Submits one job, or one array with a task for each run; returns their ids in the order of ``members``.

    Args:
        folder: the run folder, or that of a sweep.
        code: the frozen code.
        submission: nodes, limits, environment.
        members: frozen runs.

    Raises:
        UserError: SLURM refuses.
    """
    for member in members:
        write_submission(Records(member.run.run_dir).submission_file, submission)
        Records(member.run.run_dir).forget_cancel()
    jobs = [node_job(submission, member, job_words(member)) for member in members]
    try:
        ids = _send(_executor(folder, code, submission, members), jobs, submission, members)
    except UserError:
        _forget(folder, code, members)
        raise
    before = ids
    for protocol in range(len(evaluations(submission, members[0]))):
        small, dependency = _evaluation(folder, submission, ids, before if protocol else [])
        chosen = [evaluations(submission, member)[protocol] for member in members]
        judges = [node_job(small, member, words) for member, words in zip(members, chosen, strict=True)]
        before = _send(_executor(folder, code, small, members, dependency), judges, small, members)
    return ids


def _forget(folder: Path, code: Path, members: Sequence[SweepMember]) -> None:
    """Takes away what was frozen for runs that SLURM has refused and that were never submitted before."""
    for run_dir in (member.run.run_dir for member in members):
        if not Records(run_dir).jobs() and not RunRecord.path(run_dir).exists():
            shutil.rmtree(Records(run_dir).folder, ignore_errors=True)
            _remove_empty(run_dir)
    if members[0].run.run_dir != folder:
        shutil.rmtree(code, ignore_errors=True)
        if not (folder / "sweep.json").exists():
            shutil.rmtree(Records(folder).folder, ignore_errors=True)
        _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def scripts(folder: Path, submission: Submission, members: Sequence[SweepMember]) -> list[str]:
    """The sbatch scripts that ``submit`` would hand to SLURM. Nothing is written."""
    code = code_folder(folder, members)
    executors = [_executor(folder, code, submission, members)]
    before: list[str] = []
    for _ in evaluations(submission, members[0]):
        small, dependency = _evaluation(folder, submission, [_PLACEHOLDER] * len(members), before)
        executors.append(_executor(folder, code, small, members, dependency))
        before = [_PLACEHOLDER] * len(members)
    for executor in executors if len(members) > 1 else ():
        executor.parameters["map_count"] = len(members)
    return [executor._make_submission_file_text(executor._submitit_command_str, "") for executor in executors]


def start_here(submission: Submission, member: SweepMember) -> int:
    """Runs the ranks of the run on this machine, under torchrun; returns the run's exit code."""
    records = Records(member.run.run_dir)
    write_submission(records.submission_file, submission)
    records.forget_cancel()
    limits = {"processes": submission.processes, "max_restarts": submission.max_restarts}
    return run_here(job_words(member), records.code, **limits)


def job_words(member: SweepMember) -> tuple[str, ...]:
    """The command of the run's ranks, which goes on where the run has been before."""
    run_dir, run = member.run.run_dir, member.run
    begun = any((run_dir / "checkpoints").glob("step-*"))
    resume = "auto" if begun or run.resume == "never" else run.resume
    words = ("pretrain", "--from", str(Records(run_dir).run_file), "--run-dir", str(run_dir), "--resume", resume)
    words = (*words, *trusted_recipes.flags(member.recipe))
    return words if run.stop_after is None else (*words, "--stop-after", str(run.stop_after))


def node_job(submission: Submission, member: SweepMember, words: tuple[str, ...]) -> NodeJob:
    """What SLURM starts on each node."""
    return NodeJob(
        run_dir=member.run.run_dir,
        words=words,
        processes=submission.processes,
        kind="eval" if words[0] == "eval" else "pretrain",
        max_requeues=submission.max_requeues,
        max_restarts=submission.max_restarts,
        doctor=submission.doctor and words[0] != "eval",
    )


def _evaluation(
    folder: Path, submission: Submission, ids: Sequence[str], before: Sequence[str]
) -> tuple[Submission, str]:
    """What an evaluation of the runs asks for, and when it may start: after the run, and after the one before it.

    The second finds the features that the first has cached, hence the order; whether that one succeeded is no matter.
    """
    small = replace(submission, nodes=1, name=f"{submission.name or folder.name}-eval", array_parallelism=None)
    kinds = ("aftercorr", "afterany") if len(ids) > 1 else ("afterok", "afterany")
    whole = [f"{kind}:{jobs[0].partition('_')[0]}" for kind, jobs in zip(kinds, (ids, before), strict=True) if jobs]
    return small, ",".join(whole)


def _on_disk(places: Iterable[str]) -> list[Path]:
    """Those that a container has to be shown; a store is reached from inside."""
    named = [location_of(part) for place in places for part in places_of(place)]
    return [place for place in named if isinstance(place, Path)]


# "scancel --full" and "--batch" signal the script, too: it would end, and the job with it, while the ranks save.
DEAF = "trap '' TERM USR1"


def _executor(
    folder: Path, code: Path, submission: Submission, members: Sequence[SweepMember], dependency: str | None = None
) -> Executor:
    """submitit's writer of the sbatch script."""
    records = Records(folder)
    shards = _on_disk(member.run.data.shards for member in members if member.run.data.shards is not None)
    branched = [Path(member.run.resume) for member in members if member.run.resume not in ("never", "auto")]
    others = _on_disk(words[3] for member in members for words in evaluations(submission, member))
    # MLflow's file lies beside the run folder.
    start = containers.start_command(submission, code, [folder.parent, folder], [*shards, *branched, *others])
    # An evaluation has nothing to save before its time is over: SIGCONT does nothing.
    signal = f"USR1@{submission.save_seconds}" if dependency is None else "CONT@1"
    more: dict[str, Any] = {"signal": signal, "requeue": True}
    if dependency is not None:
        more["kill-on-invalid-dep"] = "yes"
    more |= further_options(submission)
    marks = [Records(member.run.run_dir).folder / "cancelled" for member in members]
    in_container = submission.container is not None and dependency is None
    teardown = containers.requeue_lines(submission.max_requeues, marks) if in_container else None
    executor = Executor(records.submitit, python=start.python)
    executor.update_parameters(
        job_name=submission.name or folder.name,
        dependency=dependency,
        array_parallelism=submission.array_parallelism or len(members),
        **asked_of_slurm(submission),
        setup=[DEAF, *submission.setup],
        teardown=teardown,
        srun_args=[*cores_of_srun(submission), *start.srun],
        additional_parameters=more,
    )
    return executor


def asked_of_slurm(submission: Submission) -> dict[str, Any]:
    """What submitit takes of nodes, cores and limits."""
    return {
        "nodes": submission.nodes,
        "ntasks_per_node": 1,
        "gpus_per_node": submission.gpus_per_node or None,
        "cpus_per_task": submission.cpus_per_task,
        "mem": submission.mem,
        "time": None if submission.time is None else minutes(submission.time),
        "partition": submission.partition,
        "account": submission.account,
        "qos": submission.qos,
        "constraint": submission.constraint,
        "exclude": submission.exclude,
        "wckey": None,
    }


def further_options(submission: Submission) -> dict[str, str | bool]:
    """The options of sbatch that were given as they are."""
    pairs = (entry.partition("=") for entry in submission.sbatch)
    return {key.replace("_", "-"): value if sign else True for key, sign, value in pairs}


def cores_of_srun(submission: Submission) -> list[str]:
    """srun does not take the cores over from sbatch."""
    return [] if submission.cpus_per_task is None else [f"--cpus-per-task={submission.cpus_per_task}"]


def _send(
    executor: Executor, jobs: Sequence[NodeJob], submission: Submission, members: Sequence[SweepMember]
) -> list[str]:
    """Hands the jobs to SLURM and notes them in their run folders."""
    submitted = hand_over(executor, jobs)
    for job, node_job, member in zip(submitted, jobs, members, strict=True):
        line = JobLine(
            job=job.job_id,
            kind=node_job.kind,
            submitted=time.time(),
            log=str(job.paths.stderr),
            nodes=submission.nodes,
            processes=submission.processes,
        )
        Records(member.run.run_dir).add_job(line)
    return [job.job_id for job in submitted]


def hand_over(executor: Executor, jobs: Sequence[Callable[[], None]]) -> Sequence[Job[Any]]:
    """Submits one job, or an array with a task for each.

    Raises:
        UserError: SLURM refuses.
    """
    said, place = io.StringIO(), executor.folder
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with _outside_of_jobs(), contextlib.redirect_stderr(said):
            submitted = executor.submit_array(jobs)
    except (FailedJobError, FailedSubmissionError) as error:
        lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in str(error).splitlines() if line]
        raise UserError(f"SLURM refuses the job: {'; '.join(lines) or 'no reason given'}") from error
    except FileNotFoundError as error:
        raise UserError("launch: no sbatch on this machine; start the run here with --local") from error
    for path in place.glob("*submi*"):  # the script and the pickled job: the user's own lines, and code that runs
        path.chmod(0o600)
    return submitted


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hides what describes the job in which this command was typed: SLURM would hand it on to the new one."""
    keep = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT"}
    ranks = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    families = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
    # SBATCH_REQUEUE, SBATCH_SIGNAL and the like win over what the script says.
    owned = {f"SBATCH_{name}" for name in ("ARRAY_INX", "ERROR", "INPUT", "JOB_NAME", "NO_REQUEUE", "OPEN_MODE")}
    owned |= {f"SBATCH_{name}" for name in ("OUTPUT", "REQUEUE", "SIGNAL", "WAIT")}
    hidden = {name for name in os.environ if name in ranks | owned or (name.startswith(families) and name not in keep)}
    values = {name: os.environ.pop(name) for name in hidden}
    try:
        yield
    finally:
        os.environ.update(values)
