"""The process that talks to W&B: reads a JSON object per line, answers each with ``done`` or with what went wrong.

When its input ends, so does it, after W&B has taken what it was handed.
"""

import json
import os
import sys
from typing import Any

from eyespot.pretrain.tracking.mirror import brief
from eyespot.pretrain.tracking.wandb_mirror import PICTURE_STEP

INIT_SECONDS = 30
"""For which W&B's server may be silent before the mirror tries again."""


class Talk:
    """What is asked, by name."""

    def __init__(self) -> None:
        self.run: Any = None

    def init(self, config: dict[str, str], **told: str) -> None:
        """Begins or resumes the run; there is one of an id, however often it is begun."""
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", init_timeout=INIT_SECONDS, x_disable_stats=True, disable_git=True
        )
        self.run = wandb.init(config=config, resume="allow", settings=settings, **told)  # pyright: ignore[reportArgumentType]

    def log(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        """Rows with their steps."""
        for step, row in rows:
            self.run.log(row, step=step)

    def picture(self, path: str, step: int) -> None:
        """A picture, with the step that it is of."""
        import wandb

        self.run.log({"pictures": wandb.Image(path, caption=f"step {step:,}"), PICTURE_STEP: step}, commit=True)

    def finish(self, exit_code: int) -> None:
        """Ends the run."""
        self.run.finish(exit_code=exit_code)


def main() -> None:
    """Answers until there are no questions."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # W&B prints
    talk = Talk()
    for line in sys.stdin:
        told = json.loads(line)
        try:
            getattr(talk, told.pop("what"))(**told)
            said = "done"
        except Exception as error:  # W&B's own, requests', whatever
            said = brief(error)
        print(said, file=answers, flush=True)


if __name__ == "__main__":
    main()
