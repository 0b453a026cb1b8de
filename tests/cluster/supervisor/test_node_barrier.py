"""Files by which supervisors agree."""

import threading

from eyespot.cluster.supervisor.node_barrier import NodeBarrier


def test_what_is_posted_is_read_by_the_same_meeting_only(tmp_path):
    here, there = (NodeBarrier(tmp_path / "meetings", "12_3", 1, 2) for _ in range(2))
    assert there.read("go") is None
    here.post("go", {"port": 5})
    assert there.read("go") == {"port": 5}
    for other in (NodeBarrier(tmp_path / "meetings", "12_3", 0, 2), NodeBarrier(tmp_path / "meetings", "12_3", 1, 1)):
        assert other.read("go") is None
    here.post("ready-a", {"time": 1})
    assert there.read_all("ready", ("a", "b")) == {"a": {"time": 1}}


def test_a_reader_sees_all_or_nothing(tmp_path):
    barrier, seen = NodeBarrier(tmp_path, "1", 0, 0), []
    ended = threading.Event()

    def write() -> None:
        for number in range(300):
            barrier.post("go", {"number": number, "text": str(number) * 5000})
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not ended.is_set():
        if (values := barrier.read("go")) is not None:
            seen.append(values)
    writer.join()
    assert seen
    assert all(values["text"] == str(values["number"]) * 5000 for values in seen)
