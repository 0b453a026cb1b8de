"""How a rank's GPU fares while it trains: power, temperature, clock, slowing, memory errors, memory in use.

What nvidia-smi shows comes from NVIDIA's library (NVML, through the package nvidia-ml-py). The rank watch's thread asks
it once a second; it waits for no kernel. Where the library is missing, or a GPU does not know a figure, there is none.
"""

import importlib
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from eyespot.pretrain.distributed.collectives import all_gather, group_name
from eyespot.pretrain.distributed.devices import pci_address

log = logging.getLogger("eyespot")

SLOWING = {
    0x08: "hw slowdown",
    0x20: "sw thermal slowdown",
    0x40: "hw thermal slowdown",
    0x80: "hw power brake slowdown",
}
"""NVML's bits (nvmlClocksEventReason...) for a slower clock that mean trouble; idling and a power cap do not."""
METRICS: dict[str, Callable[[list[float]], float]] = {
    "gpu/power_watts": lambda values: sum(values) / len(values),
    "gpu/temperature_celsius": max,
    "gpu/clock_mhz": min,
    "gpu/slowed_share": max,
    "gpu/ecc_errors": sum,
    "gpu/memory_gb": max,
}
"""What is logged, and how the ranks' figures become one: their mean, that of the worst, or all together."""
SLOWED_SHARE = 0.5
"""Of the looks of an interval: what is said to be slow was so most of the time."""


class GpuHealth:
    """Made on each rank; nothing is asked and nothing imported where it computes on the CPU.

    Args:
        address: of the rank's GPU, "0000:18:00.0"; None = it has none.
        memory: gives (free, all) bytes of the GPU, whoever uses them; None = it has none.
    """

    def __init__(self, address: str | None, memory: Callable[[], tuple[int, int]] | None) -> None:
        self._memory = memory
        self._nvml, self._handle = _open(address) if address is not None else (None, None)
        self._ecc_before = self._ecc_errors()
        self._reasons = 0
        self._restart()

    @classmethod
    def of(cls, device: torch.device) -> "GpuHealth":
        """That of the device."""
        if device.type != "cuda":
            return cls(None, None)
        return cls(pci_address(device), lambda: torch.cuda.mem_get_info(device))

    @property
    def known(self) -> bool:
        """Whether there is a GPU to tell of; the same on all ranks."""
        return self._memory is not None

    def look(self) -> None:
        """Asks the GPU: once a second, from one thread."""
        nvml, handle = self._nvml, self._handle
        if nvml is None:
            return
        self._watts += _known(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000)
        self._celsius += _known(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        self._clock += _known(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
        for active in _known(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)):
            found = int(active) & sum(SLOWING)
            self._slowed.append(float(found > 0))
            self._reasons |= found

    def close_interval(self) -> list[float]:
        """Since the last call, in the order of METRICS, and the reasons for a slower clock; NaN = not known."""
        free, total = self._memory() if self._memory is not None else (0, 0)
        ecc, before = self._ecc_errors(), self._ecc_before
        figures = [
            sum(self._watts) / len(self._watts) if self._watts else math.nan,
            max(self._celsius, default=math.nan),
            min(self._clock, default=math.nan),
            sum(self._slowed) / len(self._slowed) if self._slowed else math.nan,
            math.nan if ecc is None or before is None else float(ecc - before),
            (total - free) / 1e9 if total else math.nan,
            float(self._reasons),
        ]
        self._restart()
        return figures

    def close(self) -> None:
        """Lets go of the library."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            _known(nvml.nvmlShutdown)

    def _restart(self) -> None:
        # The thread that looks may still hold the old lists: then one look of many is lost.
        self._watts: list[float] = []
        self._celsius: list[float] = []
        self._clock: list[float] = []
        self._slowed: list[float] = []
        self._reasons = 0

    def _ecc_errors(self) -> int | None:
        """That could not be corrected, since the driver was loaded."""
        nvml, handle = self._nvml, self._handle
        if nvml is None:
            return None
        kind, since = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        found = _known(lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, kind, since))
        return int(found[0]) if found else None


class GpuWatch:
    """All ranks' GPUs: makes one figure of theirs, and names once a rank whose GPU is slowed down or loses bits.

    Args:
        health: of this rank's.
        names: of the ranks.
    """

    def __init__(self, health: GpuHealth, names: Sequence[str]) -> None:
        self.health, self._names = health, names
        self._slow, self._lost = [False] * len(names), [0.0] * len(names)

    def close_interval(self) -> tuple[dict[str, float], list[str]]:
        """What to log and what to say of the time since the last call; nothing on a CPU. All ranks call it."""
        if not self.health.known:
            return {}, []
        own = torch.tensor([self.health.close_interval()], dtype=torch.float64)  # on the CPU: one tiny exchange
        return self.judge(all_gather(own, group_name(None)))

    def judge(self, rows: Tensor) -> tuple[dict[str, float], list[str]]:
        """The same of what each rank's ``GpuHealth.close_interval`` returned."""
        columns = dict(zip([*METRICS, "reasons"], rows.T.tolist(), strict=True))
        metrics: dict[str, float] = {}
        for name, together in METRICS.items():
            if known := [value for value in columns[name] if not math.isnan(value)]:
                metrics[name] = round(together(known), 3)
        said: list[str] = []
        for rank, name in enumerate(self._names):
            share, celsius = columns["gpu/slowed_share"][rank], columns["gpu/temperature_celsius"][rank]
            slow, errors = share >= SLOWED_SHARE, columns["gpu/ecc_errors"][rank]
            if slow and not self._slow[rank]:
                why = ", ".join(text for bit, text in SLOWING.items() if int(columns["reasons"][rank]) & bit)
                said.append(f"{name}: its GPU is slowed down {share:.0%} of the time: {why}; {celsius:.0f} °C at most")
            if errors > self._lost[rank]:
                said.append(f"{name}: its GPU has had {errors:.0f} memory errors (ECC) in this run that stay wrong")
            self._slow[rank], self._lost[rank] = slow, max(self._lost[rank], 0 if math.isnan(errors) else errors)
        return metrics, said


def _open(address: str) -> tuple[Any, Any]:
    """The library and its word for the GPU; (None, None) where there is none, which is said to the log's file alone."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        return nvml, nvml.nvmlDeviceGetHandleByPciBusId(address)
    except Exception as error:  # the package, the library or the device is not there: training needs none of them
        log.debug("no figures of the GPU: %s", error)
        return None, None


def _known(ask: Callable[[], float]) -> list[float]:
    """The answer; nothing where this GPU or driver does not know it, or is lost: whoever computes on it will say so."""
    try:
        return [float(ask())]
    except Exception:  # NVML's own, one class for each code
        return []
