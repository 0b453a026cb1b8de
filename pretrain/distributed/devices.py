"""Which device a process computes on: what was asked for, and never the CPU because a GPU could not be used."""

import os
import re
import socket
import warnings

import torch
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.distributed.nvidia_devices import (
    driver_version,
    hidden_by,
    is_denied,
    oldest_driver,
    sign_of_devices,
)

_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def own_device(asked: str, local_rank: int = 0) -> torch.device:
    """The device of this process; a GPU becomes torch's current one.

    Args:
        asked: "auto" (a GPU where the machine has one), "cpu" or "cuda".
        local_rank: among the processes of its node: the number of its GPU, unless its launcher shows it a single one.

    Raises:
        UserError: torch can use no GPU, and "cuda" is asked for, or "auto" where something says that there are NVIDIA
            devices; or there are fewer than processes.
        Outage: so, with device files, a driver and a torch that fit: then it is the GPU that has failed, and another
            start, perhaps on another node, may go better.
    """
    if asked == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        prefer_expandable_segments()
    if why_not := why_no_cuda():
        sign = sign_of_devices()
        if asked == "auto" and not sign:
            return torch.device("cpu")
        raise (Outage if _has_failed(sign, why_not) else UserError)(unusable(asked, sign, why_not))
    count, processes = torch.cuda.device_count(), max(local_rank + 1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if 1 < count < processes:  # a single one may be this process's own: ``require_apart`` finds out
        raise UserError(
            f"device {asked}: {plural(processes, 'process')} on a machine with"
            f" {plural(count, 'GPU')}; start {count}, or show each its own"
        )
    chosen = torch.device("cuda", 0 if count == 1 else local_rank)
    torch.cuda.set_device(chosen)
    return chosen


def why_no_cuda() -> str:
    """Why torch cannot compute on a GPU, in its own words, one line; empty where it can."""
    with warnings.catch_warnings():  # the reason of which it warns is the one that it raises
        warnings.simplefilter("ignore")
        available = torch.cuda.is_available()
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            return re.split(r"\s(?=Please |Alternatively)", " ".join(str(error).split()))[0].rstrip(". ")
    return "" if available else "torch.cuda.is_available() is False"


def _has_failed(sign: str, why_not: str) -> bool:
    """Whether it is a device that fails here, and neither a setting nor what is installed."""
    lasting = hidden_by() or torch.version.cuda is None or re.search(r"too old|no NVIDIA driver|not compiled", why_not)
    return sign.startswith("/dev/") and not lasting and not is_denied(sign)


def unusable(asked: str, sign: str, why_not: str) -> str:
    """One line: what says that there are devices, torch's reason, and what its wheels need.

    Args:
        asked: "auto" or "cuda".
        sign: from ``sign_of_devices``.
        why_not: from ``why_no_cuda``.
    """
    there = f"{sign} says that there are NVIDIA devices, but" if sign else "no NVIDIA device shows here, and"
    found = f"device {asked}: {there} torch {torch.__version__} cannot use them: {why_not}"
    return f"{found}; {remedy(sign)}, or mean the CPU with --device cpu"


def remedy(sign: str = "") -> str:
    """What makes GPUs usable for this torch, with the driver that its wheels need.

    Args:
        sign: from ``sign_of_devices``.
    """
    if sign.startswith("/dev/") and is_denied(sign):
        return "they are kept from this job: ask for one, as in --gpus-per-node"
    if hidden := hidden_by():
        return f"unset {hidden}, which hides them"
    # A shell's start file may say so on every machine.
    doubt = "nothing else here speaks for a GPU: unset it where there is none; else "
    doubt = doubt if sign.startswith("CUDA_VISIBLE_DEVICES=") else ""
    if torch.version.cuda is None:
        return f"{doubt}install the torch of PyPI, which holds CUDA"
    needed, driver = oldest_driver(torch.version.cuda), driver_version()
    here = f" (here {driver})" if driver else ""
    return (
        f"{doubt}CUDA {torch.version.cuda}, with which torch and DALI are built, needs driver {needed} or newer{here};"
        " a container needs --gpus all (Apptainer: --nv), and LD_LIBRARY_PATH no other CUDA"
    )


def prefer_expandable_segments() -> None:
    """Lets torch's allocator grow its pieces in place of keeping many of fixed sizes, unless the user has set it.

    Less of the memory lies in gaps that no tensor fits into. The allocator reads this once, when CUDA starts.
    """
    if not any(name in os.environ for name in _ALLOCATOR):
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def name_of(device: torch.device) -> str:
    """What no other GPU is called, on any node; of a slice of one (MIG) "", as its name may not be its own."""
    known = torch.cuda.get_device_properties(device)
    return "" if "MIG" in known.name else f"{socket.gethostname()} {known.uuid}"


def pci_address(device: torch.device) -> str:
    """Of a GPU, as Linux writes it: "0000:18:00.0"."""
    known = torch.cuda.get_device_properties(device)
    return f"{known.pci_domain_id:04x}:{known.pci_bus_id:02x}:{known.pci_device_id:02x}.0"


def require_apart(name: str, store: Store, rank: int, size: int) -> None:
    """Whether every rank has a GPU of its own, which nobody can see alone where each is shown a single one.

    Args:
        name: of this rank's, from ``name_of``.
        store: that all ranks share.
        rank: of this process.
        size: how many ranks there are. All call it.

    Raises:
        UserError: two ranks have the same; on every rank.
    """
    store.set(f"eyespot/gpu/{rank}", name)
    if rank == 0:
        names = [other.decode() for other in store.multi_get([f"eyespot/gpu/{other}" for other in range(size)])]
        owners: dict[str, list[int]] = {}
        for owner, other in enumerate(names):
            owners.setdefault(other, []).append(owner)
        shared = [f"ranks {', '.join(map(str, of))} on {other}" for other, of in owners.items() if other and of[1:]]
        store.set("eyespot/shared-gpus", "; ".join(shared[:2]))
    if found := store.get("eyespot/shared-gpus").decode():
        raise UserError(
            f"device cuda: ranks share a GPU ({found}); start one process for each GPU, or show each its own"
        )
