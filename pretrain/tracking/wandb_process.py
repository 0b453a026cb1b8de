"""The process that talks to W&B: reads a JSON object per line, answers each with ``done`` or with what went wrong.

When its input ends, so does it, after W&B has taken what it was handed. A run that was not said to be at its end was
killed then, and W&B says that it failed; whoever goes on with it opens it again.
"""

import json
import os
import sys
from typing import Any

from eyespot.pretrain.tracking.mirror import brief
from eyespot.pretrain.tracking.wandb_mirror import PICTURE_STEP, REFUSED

INIT_SECONDS = 30
"""For which W&B's server may be silent before the mirror tries again."""


class Talk:
    """What is asked, by name."""

    def __init__(self) -> None:
        self.run: Any = None
        self._last = self._step_of_pictures = -1
        self._pictures: dict[int, Any] = {}

    def init(self, config: dict[str, str], last: int, **told: str) -> None:
        """Begins or resumes the run; there is one of an id, however often it is begun. ``last`` is its last row."""
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", init_timeout=INIT_SECONDS, x_disable_stats=True, disable_git=True
        )
        self.run = wandb.init(config=config, resume="allow", settings=settings, **told)  # pyright: ignore[reportArgumentType]
        self._last = last

    def log(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        """Rows with their steps."""
        for step, row in rows:
            self.run.log(row, step=step)
            self._last = step

    def pictures(self, pictures: list[tuple[int, str]]) -> None:
        """Pictures and the steps that they are of, with the last row: it takes them, and no step of another."""
        import wandb

        step = max(self._last, self.run.step)
        if step != self._step_of_pictures:
            self._step_of_pictures, self._pictures = step, {}
        self._pictures |= {of: wandb.Image(path, caption=f"step {of:,}") for of, path in pictures}
        shown = {"pictures": list(self._pictures.values()), PICTURE_STEP: list(self._pictures)}
        self.run.log(shown, step=step, commit=False)

    def finish(self, exit_code: int) -> None:
        """Ends the run."""
        run, self.run = self.run, None
        run.finish(exit_code=exit_code)


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
            said = f"{REFUSED if _is_refusal(error) else ''}{brief(error)}"
        print(said, file=answers, flush=True)
    if talk.run is not None:
        talk.finish(1)


def _is_refusal(error: Exception) -> bool:
    """Whether W&B will not have it: a wrong key, a wrong project. All else is a server that may come back."""
    from wandb.errors import AuthenticationError, UsageError

    return isinstance(error, AuthenticationError | UsageError)


if __name__ == "__main__":
    main()
