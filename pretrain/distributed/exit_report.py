"""What a rank and the supervisor that started it tell each other, where signals and exit codes say too little.

The supervisor hands each rank the number of the attempt, and a pipe for its last words. A pipe needs no disk, so the
words arrive when the disk is full as well. Under other launchers both variables are unset, and nothing is written.
"""

import json
import os
from collections.abc import Sequence
from typing import Literal

from eyespot.pretrain.redaction import masked

Kind = Literal["wrong input", "training", "another rank", "crash"]
"""wrong input = a UserError; training = a TrainingError: the same start would end the same way; another rank = a
RankFailure; crash = any other exception."""

ATTEMPT = "EYESPOT_ATTEMPT"
"""1 at the first start of a run."""
LAST_WORDS = "EYESPOT_LAST_WORDS"
"""Number of the pipe."""
_LENGTH = 1000  # far below PIPE_BUF, 4096: the line arrives whole


def leave_words(kind: Kind, text: str, ranks: Sequence[int] = ()) -> None:
    """Tells the supervisor, if there is one, why this process ends; it goes by the first words.

    Args:
        kind: what ended it.
        text: made one line.
        ranks: who is to blame, where it is another.
    """
    number = os.environ.get(LAST_WORDS, "")
    if not number.isdecimal():
        return
    line = json.dumps({"kind": kind, "text": masked(" ".join(text.split()))[:_LENGTH], "ranks": list(ranks)[:64]})
    try:
        os.write(int(number), line.encode() + b"\n")
    except OSError:
        return  # of a process that this one was not started by, or the supervisor is gone
