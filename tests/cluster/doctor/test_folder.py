import errno
import threading
from pathlib import Path

import pytest

from eyespot.cluster.doctor import folder


def one(findings):
    (finding,) = findings
    return finding


def test_a_good_folder_leaves_its_facts_and_nothing_else(make_context, tmp_path):
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints" / "step-00000001").mkdir(parents=True)
    (run_dir / "checkpoints" / "step-00000001" / "rank-00000.safetensors").write_bytes(b"1234")
    context = make_context(run_dir=run_dir)
    assert one(folder.writable(context)).level == "ok"
    assert abs(context.facts["server_ahead"]) < 2
    assert context.facts["checkpoint_bytes"] == 4
    assert context.facts["files"]["bytes"] > 0
    assert sorted(path.name for path in run_dir.iterdir()) == ["checkpoints"]


def test_a_run_folder_that_is_not_there_yet_is_judged_by_the_one_above(make_context, tmp_path):
    context = make_context(run_dir=tmp_path / "new" / "run")
    assert one(folder.writable(context)).level == "ok"
    assert not (tmp_path / "new").exists()


def test_a_folder_that_refuses_is_named(make_context):
    finding = one(folder.writable(make_context(run_dir=Path("/proc/1/run"))))  # refuses even root
    assert finding.level == "fail"
    assert "/proc/1 cannot be written to" in finding.found
    assert "--run-dir" in finding.fix


@pytest.mark.parametrize(("number", "word"), [(errno.ENOLCK, "locks"), (errno.EDQUOT, "quota"), (errno.EROFS, "mount")])
def test_what_to_do_depends_on_the_refusal(make_context, number, word):
    assert word in folder.unwritable(make_context(), Path("run"), OSError(number, "no")).fix


def test_renames_on_two_nodes(make_context):
    other = threading.Thread(target=lambda: list(folder.renames(make_context(nodes=2, index=1))))
    other.start()
    finding = one(folder.renames(make_context(nodes=2)))
    other.join()
    assert finding.level == "ok", finding
    assert "seen by the next node" in finding.found


def test_a_file_written_in_place_is_seen_to_be_torn(make_context, tmp_path):
    context, stop = make_context(nodes=2), threading.Event()

    def in_place():
        while not stop.is_set():
            for version in (1, 2):
                (context.folder / "rename-n2").write_bytes(folder._page(version, 0.0))

    writer = threading.Thread(target=in_place)
    writer.start()
    finding = one(folder.renames(context))
    stop.set()
    writer.join()
    assert finding.level == "fail"
    assert "a reader saw a broken file" in finding.found
    assert "n2" in finding.found


def test_a_neighbour_that_is_not_seen(make_context):
    finding = one(folder.renames(make_context(nodes=2, seconds=3)))
    assert (finding.level, "n1 does not see what n2 renamed" in finding.found) == ("fail", True)


def test_a_neighbour_that_is_seen_late(make_context):
    context = make_context(nodes=2)
    (context.folder / "rename-n2").write_bytes(folder._page(folder.VERSIONS, -9.0))
    finding = one(folder.renames(context))
    assert (finding.level, finding.found) == ("warn", "n1 saw a file of n2 9 s late")
