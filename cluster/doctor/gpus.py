"""The GPUs of a node, as nvidia-smi sees them: how many, how well, how free."""

import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from eyespot.cluster.doctor import gpu_links, torch_gpus
from eyespot.cluster.doctor.checks import CheckContext
from eyespot.cluster.doctor.findings import Finding
from eyespot.pretrain.distributed.nvidia_devices import SECONDS, hidden_by, oldest_driver, sign_of_devices

FREE_SHARE = 0.9
"""Of a GPU's memory, that should be free before the run starts."""
HOT_CELSIUS = 85
SLOWING = ("hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown")
"""Reasons for a slower clock that mean trouble; idling and a power cap do not."""


@dataclass(kw_only=True, slots=True)
class GPU:
    """One GPU."""

    index: int
    uuid: str
    name: str
    total_mib: float
    free_mib: float
    celsius: float | None
    uncorrected: int
    """ECC errors that could not be corrected since the driver was loaded."""
    retiring: bool
    """Memory is worn out, and a restart is needed to stop using it."""
    slowed: list[str]
    """Which of ``SLOWING`` hold."""
    processes: list[str]
    """Who uses it, in words."""

    @property
    def known_as(self) -> str:
        """For people."""
        return f"GPU {self.index} ({self.name})"


@dataclass(kw_only=True, slots=True)
class Fleet:
    """All GPUs of a node."""

    driver: str
    cuda: str
    gpus: list[GPU]


def look(context: CheckContext) -> Iterator[Finding]:
    """Counts the GPUs, judges each that the job may use, and has torch try them."""
    if context.device == "cpu":
        yield context.ok("GPUs", "not used: the run's device is cpu")
        return
    sign = sign_of_devices()
    asked = torch_gpus.start_asking() if sign else None
    try:
        fleet, complaint = ask()
        if fleet is not None and visible(fleet) and asked is None:
            sign, asked = "nvidia-smi", torch_gpus.start_asking()
        answer = torch_gpus.answer_of(context, asked) if asked is not None else {}
        context.facts["gpus"] = [gpu.name for gpu in visible(fleet)] if fleet else []
        if fleet is not None:
            context.facts["driver"], context.facts["cuda"] = fleet.driver, fleet.cuda
            yield from gpu_findings(context, fleet, answer)
        else:
            yield _none(context, sign, complaint)
        if answer:
            yield from torch_gpus.torch_findings(context, answer, sign)
    finally:
        if asked is not None:
            torch_gpus.end(asked)


def _none(context: CheckContext, sign: str, complaint: str) -> Finding:
    """Where nvidia-smi shows no GPU, with what it complains of."""
    if complaint and (sign or context.device == "cuda"):
        return context.fail(
            "GPUs", complaint, f"have the driver looked at, and leave the node out: {_exclude(context)}"
        )
    if complaint:
        fix = "nothing else speaks for GPUs, so the run uses the CPU; if there are some, is the driver loaded?"
        return context.warn("GPUs", complaint, fix)
    if sign:
        fix = "open them to the job or container: --gpus-per-node; docker's --gpus all; Apptainer's --nv"
        if sign.startswith("CUDA_VISIBLE_DEVICES="):
            fix = f"unset it where there is no GPU; else {fix}"
        return context.warn("GPUs", f"nvidia-smi finds none, but {sign} says that there are some", fix)
    if context.device == "cuda" and context.place.job:
        fix = "ask for nodes with GPUs (--gpus-per-node), or use --device cpu"
        return context.fail("GPUs", "nvidia-smi finds none", fix)
    if context.device == "cuda":
        return context.warn("GPUs", "none on this machine", "run it where the GPUs are: a job looks again by itself")
    return context.ok("GPUs", "none: the run uses the CPU")


def _exclude(context: CheckContext) -> str:
    return f"--exclude {context.node}"


def gpu_findings(context: CheckContext, fleet: Fleet, answer: Mapping[str, Any] = {}) -> Iterator[Finding]:
    """What is wrong with the GPUs that the job may use.

    Args:
        context: of this node.
        fleet: the node's.
        answer: torch's, from ``torch_gpus.answer_of``.
    """
    gpus, tasks = visible(fleet), tasks_here()
    yield from _enough(context, gpus, tasks)
    for gpu in _own(context, gpus, tasks):
        yield from _judge_one(context, gpu)
    if not gpus:
        return
    names = ", ".join(sorted({gpu.name for gpu in gpus}))
    whose = f" for this task, one of {tasks} on this node" if tasks > 1 else ""
    found = f"{len(gpus)} x {names}{whose}, driver {fleet.driver}, CUDA {fleet.cuda}"
    needed = oldest_driver(answer.get("cuda") or "") if answer.get("why_not") else ""
    if needed and fleet.driver and _version(fleet.driver) < _version(needed):
        fix = f"that needs driver {needed} or newer: have it updated, or leave the node out ({_exclude(context)})"
        yield context.fail("GPUs", f"{found}: too old for torch's CUDA {answer['cuda']}", fix)
    else:
        yield context.ok("GPUs", found)
    if len(gpus) > 1 and (link := gpu_links.ask([gpu.index for gpu in gpus])).words:
        yield context.ok("GPU links", link.words)


def _enough(context: CheckContext, gpus: list[GPU], tasks: int) -> Iterator[Finding]:
    """Whether each rank of the node has a GPU, by what this task sees: SLURM may show each task others."""
    processes, count = context.place.processes, len(gpus)
    if processes == 1 and 1 < count < tasks:
        found = f"{count} to use where the {tasks} tasks of this node need one each"
        yield context.fail("GPUs", found, f"show each its own (srun --gpus-per-task=1), or start {count} tasks")
    if count >= processes:
        return
    fix = "ask for as many with --gpus-per-node, or start fewer with --processes-per-node"
    chosen, per_task = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("SLURM_GPUS_PER_TASK")
    if hidden := hidden_by():
        fix = f"unset {hidden}, which hides them"
    elif per_task:
        fix = (
            f"SLURM_GPUS_PER_TASK={per_task}, and one task starts all ranks of a node: leave --gpus-per-task out, and"
            f" ask with --gpus-per-node {processes}; or start fewer with --processes-per-node"
        )
    elif chosen is not None:
        fix = f"CUDA_VISIBLE_DEVICES={chosen} shows no more: unset it, or {fix}"
    need = f"{processes} processes need one each" if processes > 1 else "the run needs one"
    yield context.fail("GPUs", f"{count} to use where {need}", fix)


def _own(context: CheckContext, gpus: list[GPU], tasks: int) -> list[GPU]:
    """Those that this task's ranks take: where each task is a rank and sees all GPUs, the one of its number."""
    number = os.environ.get("SLURM_LOCALID", "")
    if context.place.processes == 1 and 1 < tasks <= len(gpus) and number.isdecimal():
        return gpus[int(number) :][:1]
    return gpus[: context.place.processes]


def tasks_here() -> int:
    """Tasks of SLURM's step on this node, as ``srun --ntasks-per-node`` starts them; 1 outside of a step."""
    counts: list[int] = []
    for part in os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        if (found := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)) is None:  # "4(x2),3" = 4, 4, 3
            return 1
        counts += [int(found[1])] * int(found[2] or 1)
    node = os.environ.get("SLURM_NODEID", "")
    return counts[int(node)] if node.isdecimal() and int(node) < len(counts) else counts[0]


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def _judge_one(context: CheckContext, gpu: GPU) -> Iterator[Finding]:
    leave_out = f"leave the node out ({_exclude(context)}) and tell the operators"
    if gpu.retiring:
        yield context.fail("GPU health", f"{gpu.known_as}: worn memory waits for a restart to be retired", leave_out)
    if gpu.uncorrected:
        yield context.warn(
            "GPU health", f"{gpu.known_as}: {gpu.uncorrected} memory errors (ECC) not corrected", leave_out
        )
    if gpu.slowed:
        yield context.warn("GPU health", f"{gpu.known_as}: slowed down: {', '.join(gpu.slowed)}", leave_out)
    elif gpu.celsius is not None and gpu.celsius >= HOT_CELSIUS:
        yield context.warn("GPU health", f"{gpu.known_as}: {gpu.celsius:.0f} degrees Celsius while idle", leave_out)
    if gpu.free_mib < FREE_SHARE * gpu.total_mib:
        who = f"; {', '.join(gpu.processes)}" if gpu.processes else ""
        free = f"{gpu.known_as}: {gpu.free_mib / 1024:.1f} of {gpu.total_mib / 1024:.1f} GiB free{who}"
        fix = f"end what runs there, or leave the node out (--exclude {context.node})"
        yield (
            context.fail("GPU memory", free, fix)
            if gpu.free_mib < gpu.total_mib / 2
            else context.warn("GPU memory", free, fix)
        )
    elif gpu.processes:
        yield context.warn(
            "GPU memory", f"{gpu.known_as}: used by {', '.join(gpu.processes)}", "ask for nodes of your own"
        )


def visible(fleet: Fleet) -> list[GPU]:
    """Those that CUDA_VISIBLE_DEVICES leaves, in its order."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return fleet.gpus
    words = [word.strip() for word in chosen.split(",") if word.strip()]
    found = [gpu for word in words for gpu in fleet.gpus if word == str(gpu.index) or gpu.uuid.startswith(word)]
    return found if found or not any(word.startswith("MIG") for word in words) else fleet.gpus


def ask() -> tuple[Fleet | None, str]:
    """What nvidia-smi says, None where it shows no GPU; and what it complains of in place of an answer."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-q", "-x"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
        )
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"nvidia-smi: cannot be run ({error.strerror})"
    except (subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        late = isinstance(error, subprocess.TimeoutExpired)
        return None, f"nvidia-smi: no answer after {SECONDS} s" if late else "nvidia-smi: its answer is no text"
    said = " ".join((done.stderr or done.stdout).split())[:300]
    if done.returncode:
        return None, "" if "No devices were found" in said else f"nvidia-smi: {said}"
    if "<gpu " not in done.stdout:
        return None, ""
    try:
        return parse(done.stdout), ""
    except ElementTree.ParseError as error:  # it was cut off, or something has written into it
        return None, f"nvidia-smi: its answer is no whole XML ({error})"


def parse(xml: str) -> Fleet:
    """Reads what ``nvidia-smi -q -x`` says; what a driver leaves out counts as well."""
    root = ElementTree.fromstring(xml)
    gpus = [_gpu(index, element) for index, element in enumerate(root.iter("gpu"))]
    return Fleet(driver=root.findtext("driver_version", ""), cuda=root.findtext("cuda_version", ""), gpus=gpus)


def _gpu(index: int, gpu: ElementTree.Element) -> GPU:
    ecc = gpu.find("ecc_errors/volatile")
    reasons = [*gpu.iterfind("clocks_throttle_reasons/*"), *gpu.iterfind("clocks_event_reasons/*")]
    active = {reason.tag.split("_reason_")[-1] for reason in reasons if (reason.text or "").strip() == "Active"}
    waiting = (
        "retired_pages/pending_retirement",
        "retired_pages/pending_blacklist",
        "remapped_rows/remapped_row_pending",
    )
    failed = ("remapped_rows/remapped_row_failure",)
    return GPU(
        index=index,
        uuid=gpu.findtext("uuid", ""),
        name=gpu.findtext("product_name", "GPU"),
        total_mib=_number(gpu.findtext("fb_memory_usage/total")) or 0.0,
        free_mib=_number(gpu.findtext("fb_memory_usage/free")) or 0.0,
        celsius=_number(gpu.findtext("temperature/gpu_temp")),
        uncorrected=_uncorrected(ecc),
        retiring=any((gpu.findtext(path) or "").strip() == "Yes" for path in (*waiting, *failed)),
        slowed=[reason.replace("_", " ") for reason in SLOWING if reason in active],
        processes=[_process(process) for process in gpu.iterfind("processes/process_info")],
    )


def _uncorrected(ecc: ElementTree.Element | None) -> int:
    """In GPUs before Ampere they are the double-bit errors."""
    if ecc is None:
        return 0
    counts = [element.text for element in ecc.iter() if "uncorrectable" in element.tag]
    return int(sum(_number(text) or 0.0 for text in [*counts, ecc.findtext("double_bit/total")]))


def _process(process: ElementTree.Element) -> str:
    name = (process.findtext("process_name") or "?").split("/")[-1]
    return f"process {process.findtext('pid', '?')} ({name}, {process.findtext('used_memory', '?')})"


def _number(text: str | None) -> float | None:
    """The number that a text begins with: "81559 MiB" -> 81559."""
    try:
        return float((text or "").split()[0])
    except (IndexError, ValueError):
        return None
