"""The GPUs of a node, as nvidia-smi sees them: how many, how well, how free."""

import os
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass

from eyespot.cluster.doctor import torch_gpus
from eyespot.cluster.doctor.checks import CheckContext
from eyespot.cluster.doctor.findings import Finding
from eyespot.pretrain.distributed.nvidia_devices import SECONDS, sign_of_devices

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
    answer, complaint = ask()
    fleet = parse(answer) if answer else None
    if fleet is not None and visible(fleet) and asked is None:
        sign, asked = "nvidia-smi", torch_gpus.start_asking()
    context.facts["gpus"] = [gpu.name for gpu in visible(fleet)] if fleet else []
    if fleet is not None:
        context.facts["driver"], context.facts["cuda"] = fleet.driver, fleet.cuda
        yield from gpu_findings(context, fleet)
    else:
        yield _none(context, sign, complaint)
    if asked is not None:
        yield from torch_gpus.torch_findings(context, asked, sign)


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
        return context.warn("GPUs", f"nvidia-smi finds none, but {sign} says that there are some", fix)
    if context.device == "cuda" and context.place.job:
        fix = "ask for nodes with GPUs (--gpus-per-node), or use --device cpu"
        return context.fail("GPUs", "nvidia-smi finds none", fix)
    if context.device == "cuda":
        return context.warn("GPUs", "none on this machine", "run it where the GPUs are: a job looks again by itself")
    return context.ok("GPUs", "none: the run uses the CPU")


def _exclude(context: CheckContext) -> str:
    return f"--exclude {context.node}"


def gpu_findings(context: CheckContext, fleet: Fleet) -> Iterator[Finding]:
    """What is wrong with the GPUs that the job may use."""
    gpus = visible(fleet)
    if len(gpus) < context.place.processes:
        yield context.fail(
            "GPUs",
            f"{len(gpus)} to use where {context.place.processes} processes need one each",
            "ask for as many with --gpus-per-node, or start fewer with --processes-per-node",
        )
    for gpu in gpus[: context.place.processes]:
        yield from _judge_one(context, gpu)
    names = ", ".join(sorted({gpu.name for gpu in gpus}))
    yield context.ok("GPUs", f"{len(gpus)} x {names}, driver {fleet.driver}, CUDA {fleet.cuda}")


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


def ask() -> tuple[str | None, str]:
    """nvidia-smi's answer as XML, None where it shows no GPU; and what it complains of in place of an answer."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-q", "-x"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
        )
    except FileNotFoundError:
        return None, ""
    except subprocess.TimeoutExpired:
        return None, f"nvidia-smi: no answer after {SECONDS} s"
    said = " ".join((done.stderr or done.stdout).split())[:300]
    if done.returncode:
        return None, "" if "No devices were found" in said else f"nvidia-smi: {said}"
    return (done.stdout, "") if "<gpu " in done.stdout else (None, "")


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
