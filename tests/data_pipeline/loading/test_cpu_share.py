import os

from eyespot.data_pipeline.loading import cpu_share


def test_cores_are_dealt_to_the_ranks_of_the_node(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cpu_share.cpu_share() == cpu_share.own_cores() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert cpu_share.cpu_share() == 1


def test_who_binds_itself_later_keeps_its_share(monkeypatch):
    before = cpu_share.own_cores()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    assert cpu_share.own_cores() == before
