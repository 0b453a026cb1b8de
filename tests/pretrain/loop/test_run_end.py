"""What a file system says, in one line."""

import errno

from eyespot.pretrain.loop.run_end import OUTAGES, REFUSALS, in_words, last_word


def test_the_file_and_the_reason():
    assert (
        in_words(OSError(errno.EIO, "Input/output error", "RUN/metrics.jsonl"))
        == "RUN/metrics.jsonl: Input/output error"
    )
    assert in_words(OSError("checkpoint not written")) == "checkpoint not written"


def test_the_last_word_tells_an_end_from_a_stop():
    assert last_word(3000, 3000) == "done: step 3000 of 3000"
    assert last_word(14, 3000) == "stopped as asked after step 14 of 3000 (--stop-after); go on with --resume auto"


def test_what_an_outage_is_and_what_is_not():
    assert {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOSPC} <= OUTAGES
    assert errno.ENOENT not in OUTAGES | REFUSALS and errno.EACCES not in OUTAGES
