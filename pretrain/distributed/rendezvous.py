"""Where the processes of a start meet, when the store still holds what the processes of an earlier start left there."""

import os
import secrets
import time
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.distributed.exit_report import ATTEMPT

_POLL_SECONDS = 0.05


def restarted() -> bool:
    """Whether torchrun (``--max-restarts``) or a job's supervisor started this process again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0 or int(os.environ.get(ATTEMPT, 1)) > 1


def fresh_store(rank: int, size: int, timeout_seconds: float) -> Store | None:
    """A namespace of this start in the store of torchrun's agent; None under launchers that have no store of their own.

    torchrun keeps its store when it starts the processes again, and gloo then reads the addresses of dead processes.
    The count of restarts names no namespace: nodes count for themselves. So every rank posts a random word, and rank 0
    answers each with the namespace: an answer to one's own word is never an old one.

    Raises:
        RuntimeError: not all ranks came within the time.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    timeout = timedelta(seconds=timeout_seconds)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    word, until = secrets.token_hex(8), time.monotonic() + timeout_seconds
    store.set(f"eyespot/word/{rank}", word)
    if rank == 0:
        _answer_all(store, size, namespace := word, until)
    else:
        while not (answer := _read(store, f"eyespot/answer/{rank}")).startswith(f"{word} "):
            _wait(until, "rank 0 does not answer")
        namespace = answer.split()[1]
        store.add(f"eyespot/met/{namespace}", 1)
    return PrefixStore(f"eyespot/{namespace}", store)


def _answer_all(store: Store, size: int, namespace: str, until: float) -> None:
    """Answers every word, old ones too, until every rank has recognised its own."""
    while (met := store.add(f"eyespot/met/{namespace}", 0)) < size - 1:
        for rank in range(1, size):
            if word := _read(store, f"eyespot/word/{rank}"):
                store.set(f"eyespot/answer/{rank}", f"{word} {namespace}")
        _wait(until, f"only {met + 1} of {plural(size, 'rank')} came")


def _read(store: Store, key: str) -> str:
    """The value, or nothing where nobody has set it: ``get`` would wait."""
    return store.get(key).decode() if store.check([key]) else ""


def _wait(until: float, what: str) -> None:
    if time.monotonic() > until:
        raise RuntimeError(f"rendezvous of the ranks: {what} in time")
    time.sleep(_POLL_SECONDS)
