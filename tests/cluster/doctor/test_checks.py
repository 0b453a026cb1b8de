import time

from eyespot.cluster.doctor.checks import run_checks


def test_a_check_that_crashes_or_hangs_is_a_finding_and_stops_no_other(make_context):
    def crashes(context):
        yield context.ok("first", "seen before")
        raise ZeroDivisionError("of\nall things")

    def hangs(context):
        time.sleep(60)
        yield context.ok("never", "")

    def works(context):
        time.sleep(0.2)
        yield context.warn("works", "so so", "do this")

    begin = time.monotonic()
    found = run_checks(make_context(seconds=4), {"crashes": crashes, "hangs": hangs, "works": works})
    assert time.monotonic() - begin < 20
    assert [(finding.check, finding.level) for finding in found] == [
        *(("first", "ok"), ("crashes", "fail")),
        *(("hangs", "fail"), ("works", "warn")),
    ]
    assert "ZeroDivisionError: of all things" in found[1].found
    assert found[2].found == "no answer after 4 s"
    assert 0.2 <= found[3].seconds < 4
    assert all(finding.node == "n1" for finding in found)


def test_a_check_that_has_nothing_to_say_does_not_hang(make_context):
    found = run_checks(
        make_context(seconds=4), {"silent": lambda context: (), "works": lambda context: [context.ok("a", "b")]}
    )
    assert [(finding.check, finding.level) for finding in found] == [("a", "ok")]
