"""Several starts against one store that forgets nothing, as torchrun's agent keeps it."""

import threading
import time

import pytest
from torch.distributed import TCPStore

from eyespot.pretrain.distributed.rendezvous import fresh_store, restarted


@pytest.fixture
def agent_store(monkeypatch):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    return store


def meet(size: int, late: int | None = None) -> list:
    """One start: what each rank gets; rank ``late`` comes half a second after the others."""
    stores: list = [None] * size

    def come(rank: int) -> None:
        if rank == late:
            time.sleep(0.5)
        stores[rank] = fresh_store(rank, size, 20.0)

    ranks = [threading.Thread(target=come, args=(rank,)) for rank in range(size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(30)
    return stores


@pytest.mark.parametrize("late", [None, 0, 1])
def test_a_start_never_sees_what_an_earlier_one_left(late, agent_store):
    for start in range(3):
        stores = meet(3, late if start else None)
        assert not any(store.check(["address/1"]) for store in stores)
        stores[1].set("address/1", f"of start {start}")
        assert {store.get("address/1") for store in stores} == {f"of start {start}".encode()}


def test_another_number_of_ranks(agent_store):
    for size in (3, 1, 2):
        stores = meet(size)
        assert not stores[0].check(["address/0"])
        stores[-1].set("address/0", "x")
        assert stores[0].get("address/0") == b"x"


@pytest.mark.parametrize(("rank", "message"), [(0, "only 1 of 2 ranks came"), (1, "rank 0 does not answer")])
def test_a_rank_that_never_comes(rank, message, agent_store):
    with pytest.raises(RuntimeError, match=message):
        fresh_store(rank, 2, 0.5)


def test_other_launchers_need_none(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert fresh_store(0, 2, 1.0) is None


def test_restarted(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    monkeypatch.delenv("EYESPOT_ATTEMPT", raising=False)
    assert not restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert not restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert restarted()
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    monkeypatch.setenv("EYESPOT_ATTEMPT", "1")
    assert not restarted()
    monkeypatch.setenv("EYESPOT_ATTEMPT", "2")
    assert restarted()
