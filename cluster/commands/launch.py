"""``eyespot launch``: submit a run to SLURM, or start it here under torchrun."""

import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Ge, Le

from eyespot.cluster.arguments import parse
from eyespot.cluster.help_text import show_help
from eyespot.cluster.launch.site_profiles import FILE, Profile, load_profile
from eyespot.cluster.launch.submission import Submission, read_submission
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.terminal import one_line, plural
from eyespot.pretrain import trusted_recipes
from eyespot.pretrain.run_record import RunRecord

if TYPE_CHECKING:
    from eyespot.cluster.launch.sweep import SweepMember

HELP = r"""usage: eyespot launch [--nodes 2] [--gpus-per-node 8] [--time 12h] [...] -- pretrain RECIPE [...]
       eyespot launch --tasks 32 [--time 4h] [...] -- shards pack SRC DST [...]
       eyespot launch [--nodes 2] [--gpus-per-node 8] [...] -- curate COMMAND SHARDS OUT [...]
       eyespot launch --again RUN [...]

Submits a run to SLURM. Its code and settings are frozen into the run folder first, so nothing that is edited later
changes it. Before its time limit, on preemption and when a node dies, it saves, is queued again, and goes on exactly.

  eyespot launch --nodes 2 --gpus-per-node 8 --time 12h -- pretrain mae_vitb16_in1k --data.shards data/in1k \
    --run-dir runs/b16
  eyespot launch --local --processes-per-node 2 -- pretrain mae_tiny --data.shards data/digits --run-dir runs/first
  eyespot launch --dry-run --profile big -- pretrain ...        prints the sbatch script, writes nothing
  eyespot launch --sweep optim.lr=1e-4,3e-4 seed=0,1 -- pretrain mae_tiny ... --run-dir runs/rates
  eyespot launch --then eval linear -- pretrain ...             judges the encoder when the run is done
  eyespot launch --again runs/b16                               once more, where it stopped
  eyespot launch --tasks 32 --cpus-per-task 16 --time 4h -- shards pack photos data/photos
                                                                packs on many nodes, then merges; again: goes on
  eyespot launch --nodes 2 --gpus-per-node 8 --time 4h -- curate balance data/web curated/even --model runs/first \
    --keep 1000000                                              chooses samples; again: goes on

What is the same each time stands in ~/.config/eyespot/cluster.toml, and for some runs in cluster.toml beside the run
folders: [default] always applies, --profile big lays [big] over it; its keys are the flags below.

  [default]
  partition = "gpu"
  account = "vision"
  setup = ["ulimit -n 65536"]

Exit codes: 0 submitted (--local: the run's own), 2 the input is wrong or SLURM refuses it, 1 anything else.
"""


@dataclass(kw_only=True, slots=True)
class Launch:
    """Everything before the -- of eyespot launch."""

    submission: tyro.conf.OmitArgPrefixes[Submission] = field(default_factory=Submission)
    profile: str | None = None
    """The table of cluster.toml that applies besides [default]."""
    local: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Run here, under torchrun, without SLURM."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what would be submitted; write nothing."""
    show_profile: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the site defaults that apply and where they come from."""
    sweep: tuple[str, ...] = ()
    """One run for each combination: optim.lr=1e-4,3e-4 seed=0,1,2. The run folder holds them."""
    tasks: Annotated[int, Ge(1), Le(10_000)] | None = None
    """Of shards pack: into so many tasks the packing is cut; a node takes one at a time. With --local,
    --processes-per-node of them run at once."""
    again: Path | None = None
    """Run folder of a submission to repeat: after a cancel or a failure, or where the cluster allows no requeue."""
    refreeze: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --again: run the code as it is now."""

    def __post_init__(self) -> None:
        check_ranges(self)


def main(argv: list[str]) -> int:
    """Reads the flags, checks the run, and launches it."""
    if not argv or argv[0] in ("-h", "--help"):
        show_help(HELP)
        if argv:
            parse(Launch, ["--help"], "eyespot launch")  # prints every flag, and ends the command
        return ExitCode.WRONG_INPUT
    cut = argv.index("--") if "--" in argv else len(argv)
    flags, words = argv[:cut], argv[cut + 1 :]
    again, name = _value_of("--again", flags), _value_of("--profile", flags)
    if again is not None:
        return _again(Path(again).expanduser().absolute(), flags, words)
    if "--show-profile" in flags and not words:
        return _show(load_profile(name, Path.cwd() / FILE))
    if words[:2] == ["shards", "pack"]:
        return _pack(flags, words[2:], load_profile(name, Path.cwd() / FILE))
    if words[:1] == ["curate"]:
        return _curate(flags, words[1:], load_profile(name, Path.cwd() / FILE))
    # Imported here, because `eyespot launch --help` should not wait for torch.
    from eyespot.cluster.launch.sweep import members, single

    profile = load_profile(name, single(words).run.run_dir.parent / FILE)
    launch = parse(Launch, flags, "eyespot launch", default=Launch(submission=Submission(**profile.values)))
    if launch.show_profile:
        return _show(profile)
    if launch.refreeze:
        raise UserError("refreeze: goes with --again RUN")
    if launch.tasks is not None:
        raise UserError(f"tasks {launch.tasks}: goes with -- shards pack SRC DST")
    launch.submission.words = tuple(words)
    runs = members(words, launch.sweep)
    for member in runs:
        _refuse_another_run(member)
    return _launch(launch, runs, frozen=False)


def _pack(flags: list[str], words: list[str], profile: Profile) -> int:
    """Launches ``shards pack`` as so many tasks, and what merges their parts."""
    from eyespot.cluster.commands.shards import Pack
    from eyespot.cluster.launch.pack_array import check_pack, pack_here, scripts, submit_pack
    from eyespot.data_pipeline.shards.sources import check_source
    from eyespot.data_pipeline.stores.location import check_on_disk

    launch = parse(Launch, flags, "eyespot launch", default=Launch(submission=Submission(**profile.values)))
    asked, submission = parse(Pack, words, "eyespot shards pack"), launch.submission
    if launch.tasks is None:
        raise UserError(
            "tasks: not given; say into how many shards pack is cut: eyespot launch --tasks 32 -- shards pack"
        )
    if asked.task is not None:
        raise UserError(f"task {asked.task}: launch numbers the tasks itself; leave it out")
    if launch.sweep or launch.refreeze:
        raise UserError("launch: --sweep and --refreeze are of runs; leave them out with shards pack")
    check_source(asked.source)
    check_on_disk(asked.destination)
    destination = asked.destination.expanduser().absolute()
    if one_line(str(destination)) != str(destination):  # its lines would be lines of the sbatch script
        raise UserError(f"destination {one_line(str(destination))}: holds a line break; name another folder")
    command = ["shards", "pack", *words]
    check_pack(submission, launch.tasks, destination, local=launch.local or launch.dry_run)
    if launch.dry_run:
        print("\n".join(scripts(submission, destination, launch.tasks)), end="")
        return ExitCode.DONE
    if launch.local:
        return pack_here(submission, command, destination, launch.tasks)
    array, merging = submit_pack(submission, command, destination, launch.tasks)
    print(f"job {array}: {plural(launch.tasks, 'task')} of shards pack; then job {merging} merges their parts")
    print(f"  squeue --jobs={array},{merging}\n  logs: {shlex.quote(str(destination / '.launch' / 'submitit'))}")
    return ExitCode.DONE


def _curate(flags: list[str], words: list[str], profile: Profile) -> int:
    """Launches a command of ``curate`` in the ranks of one job."""
    from eyespot.cluster.commands.curate import asked
    from eyespot.cluster.launch.curate_job import check_curate, curate_here, script, submit_curate
    from eyespot.data_pipeline.shards.shard_folder import ShardFolder

    launch = parse(Launch, flags, "eyespot launch", default=Launch(submission=Submission(**profile.values)))
    wanted, submission = asked(words), launch.submission
    if launch.sweep or launch.refreeze:
        raise UserError("launch: --sweep and --refreeze are of runs; leave them out with curate")
    if launch.tasks is not None:
        raise UserError(f"tasks {launch.tasks}: goes with -- shards pack SRC DST; the ranks of curate share the work")
    out = wanted.out.expanduser().absolute()
    if one_line(str(out)) != str(out):  # its lines would be lines of the sbatch script
        raise UserError(f"out {one_line(str(out))}: holds a line break; name another folder")
    check_curate(submission, out, local=launch.local, dry_run=launch.dry_run)
    if launch.dry_run:
        print(script(submission, out), end="")
        return ExitCode.DONE
    ShardFolder.find(wanted.shards, "train", hashes=False)  # what is missing is told here, not in the log of a job
    if launch.local:
        return curate_here(submission, ["curate", *words])
    job = submit_curate(submission, ["curate", *words], out)
    print(f"job {job}: curate {words[0]} on {plural(submission.world_size, 'rank')}, into {out}")
    print(f"  squeue --jobs={job}\n  logs: {shlex.quote(str(out / '.launch' / 'submitit'))}")
    return ExitCode.DONE


def _again(run_dir: Path, flags: list[str], words: list[str]) -> int:
    """Submits once more what was submitted before."""
    from eyespot.cluster.launch.sweep import SweepMember
    from eyespot.cluster.status.records import Records
    from eyespot.pretrain.run_json import load_run

    if words:
        raise UserError(f"again {run_dir}: repeats what was submitted; leave out the words after --")
    if (run_dir / "sweep.json").exists():
        raise UserError(f"again {run_dir}: is a sweep; name one of its runs, see: eyespot status {run_dir}")
    records = Records(run_dir)
    saved = read_submission(records.submission_file)
    launch = parse(Launch, flags, "eyespot launch", default=Launch(submission=saved))
    if launch.sweep or launch.profile:
        raise UserError(f"again {run_dir}: repeats one submission as it was; leave out --sweep and --profile")
    if not (launch.refreeze or records.code.is_dir()):
        raise UserError(f"again {run_dir}: its frozen code is gone; add --refreeze to run the code as it is now")
    sys.path.append(str(records.code))  # where a recipe of one's own may lie
    package = RunRecord.read(records.run_file).recipe.partition(":")[0].partition(".")[0]
    if any((records.code / name).exists() for name in (package, f"{package}.py")):
        trusted_recipes.trust(package)  # it is this folder's code that is asked for
    recipe, run = load_run(records.run_file)
    return _launch(launch, [SweepMember(recipe=recipe, run=run)], frozen=not launch.refreeze)


def _launch(launch: Launch, runs: "list[SweepMember]", frozen: bool) -> int:
    """Checks, freezes, submits, and says what there is now."""
    from eyespot.cluster.launch.submit import (
        check,
        check_folder,
        check_place,
        code_folder,
        freeze,
        scripts,
        start_here,
        submit,
    )
    from eyespot.cluster.launch.sweep import earlier_rows, write_sweep

    folder = runs[0].run.run_dir.parent if launch.sweep else runs[0].run.run_dir
    submission = launch.submission
    if (RunRecord.path(folder) if launch.sweep else folder / "sweep.json").exists():
        raise UserError(f"run_dir {folder}: holds {'a run' if launch.sweep else 'a sweep'}; choose another --run-dir")
    for member in runs:
        check(submission, member)
        check_folder(member.run.run_dir)
    if launch.sweep:
        earlier_rows(folder)  # a damaged list is told of before anything is submitted
    if not launch.dry_run:
        check_place(submission, runs, local=launch.local)
    else:
        print("\n".join(scripts(folder, submission, runs)), end="")
        print("nothing was written or submitted; next: the same without --dry-run", file=sys.stderr)
        return ExitCode.DONE
    code = code_folder(folder, runs)
    for line in [] if frozen else freeze(code, runs):
        print(one_line(f"eyespot: {line}"), file=sys.stderr)
    if launch.local:
        return start_here(submission, runs[0])
    jobs = submit(folder, code, submission, runs)
    if launch.sweep:
        write_sweep(folder, submission.words, runs, jobs)
    _say(folder, runs, jobs)
    if submission.processes > 1 and submission.cpus_per_task is None:
        print(
            f"  --cpus-per-task is not set: unless the cluster gives cores with GPUs or whole nodes,"
            f" the {submission.processes} processes of a node share one core"
        )
    return ExitCode.DONE


def _refuse_another_run(member: "SweepMember") -> None:
    """The folder may hold a run only where the words say that it goes on, and then it must be the same run."""
    from eyespot.cluster.launch.submit import check_folder
    from eyespot.pretrain.run_json import change_of

    run_dir = member.run.run_dir
    if not (path := RunRecord.path(run_dir)).exists():
        return
    check_folder(run_dir)  # a job that lives is the news: --again would be refused too
    if member.run.resume != "auto":
        raise UserError(
            f"run_dir {run_dir}: holds a run already; go on in it with: eyespot launch --again {run_dir}"
            " (or --resume auto after --), or choose another --run-dir"
        )
    if found := change_of(RunRecord.read(path), member.recipe, member.run):
        raise UserError(f"run_dir {run_dir}: cannot go on with other settings: {found}; choose another --run-dir")


def _value_of(flag: str, flags: list[str]) -> str | None:
    """What stands after a flag that has to be known before the others can be read."""
    for index, word in enumerate(flags):
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
        if word == flag:
            if index + 1 == len(flags):
                raise UserError(f"{flag}: needs a value (see eyespot launch --help)")
            return flags[index + 1]
    return None


def _show(profile: Profile) -> int:
    """The site defaults as a table."""
    from rich.table import Table

    from eyespot.data_pipeline.console import Console

    table = Table("key", "value", "from")
    for key, value in profile.values.items():
        table.add_row(key, ", ".join(value) if isinstance(value, tuple) else str(value), profile.origins[key])
    Console().print(table if profile.values else "no site defaults apply")
    return ExitCode.DONE


def _say(folder: Path, runs: "list[SweepMember]", jobs: list[str]) -> None:
    """The jobs, and the commands that follow."""
    from rich.table import Table

    from eyespot.data_pipeline.console import Console

    if len(runs) == 1:
        print(f"job {jobs[0]}: {folder}")
    else:
        table = Table("job", *runs[0].values, "run folder")
        for member, job in zip(runs, jobs, strict=True):
            table.add_row(job, *member.values.values(), member.run.run_dir.name)
        Console().print(table)
        print(f"{plural(len(runs), 'run')} in {folder}")
    name = shlex.quote(os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder))
    first = name if len(runs) == 1 else f"{name}/{shlex.quote(runs[0].run.run_dir.name)}"
    print(f"  eyespot status {name}\n  eyespot logs {first} --follow\n  eyespot cancel {name}")
