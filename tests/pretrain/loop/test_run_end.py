"""What a file system says, in one line."""

import errno

from eyespot.pretrain.loop.run_end import OUTAGES, REFUSALS, in_words


def test_the_file_and_the_reason():
    assert (
        in_words(OSError(errno.EIO, "Input/output error", "RUN/metrics.jsonl"))
        == "RUN/metrics.jsonl: Input/output error"
    )
    assert in_words(OSError("checkpoint not written")) == "checkpoint not written"


def test_what_an_outage_is_and_what_is_not():
    assert {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOSPC} <= OUTAGES
    assert errno.ENOENT not in OUTAGES | REFUSALS and errno.EACCES not in OUTAGES
