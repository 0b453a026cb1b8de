"""What the server counts, as Prometheus reads it (text format 0.0.4)."""

import threading
from collections import Counter
from dataclasses import dataclass, field

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(slots=True)
class Histogram:
    """How many values lie at or under each bound."""

    bounds: tuple[float, ...]
    counts: Counter[int] = field(default_factory=Counter[int])
    total: float = 0.0

    def add(self, value: float) -> None:
        """Counts one value."""
        self.counts[next((place for place, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))] += 1
        self.total += value

    def lines(self, name: str, about: str) -> list[str]:
        """As Prometheus reads it."""
        below, lines = 0, [f"# HELP {name} {about}", f"# TYPE {name} histogram"]
        for place, bound in enumerate((*self.bounds, "+Inf")):
            below += self.counts[place]
            lines.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*lines, f"{name}_sum {self.total:g}", f"{name}_count {below}"]


class Metrics:
    """Counts requests, their seconds, and batches; any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses = Counter[int]()
        self._seconds, self._sizes = Histogram(SECONDS), Histogram(SIZES)
        self.in_flight = 0
        """Requests for features that are being read, wait or are answered."""

    def answered(self, status: int, seconds: float) -> None:
        """Counts one request for features."""
        with self._lock:
            self._statuses[status] += 1
            self._seconds.add(seconds)

    def encoded(self, size: int) -> None:
        """Counts one batch."""
        with self._lock:
            self._sizes.add(float(size))

    def text(self) -> str:
        """All of it."""
        with self._lock:
            lines = ["# HELP eyespot_requests_total Requests for features.", "# TYPE eyespot_requests_total counter"]
            lines += [f'eyespot_requests_total{{status="{s}"}} {n}' for s, n in sorted(self._statuses.items())]
            lines += self._seconds.lines("eyespot_request_seconds", "Seconds from a request's headers to its answer.")
            lines += self._sizes.lines("eyespot_batch_images", "Images that went through the encoder together.")
            lines += ["# HELP eyespot_in_flight Requests for features that are not answered yet."]
            lines += ["# TYPE eyespot_in_flight gauge", f"eyespot_in_flight {self.in_flight}"]
        return "\n".join(lines) + "\n"
