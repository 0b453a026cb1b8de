"""The log file of a rank: made anew where somebody has taken it away, and never a reason to stop."""

import logging
import sys
from logging.handlers import WatchedFileHandler
from pathlib import Path


class LogFile(WatchedFileHandler):
    """Appends to a file. A line that cannot be written (a full disk) is dropped; the first time stderr says so.

    Args:
        path: the file; its folder is made.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path, encoding="utf-8")
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line."""
        try:
            super().emit(record)
        except OSError:  # its folder is gone
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Says once that lines are missing, where logging would print a traceback for each."""
        if not self._said:
            self._said = True
            sys.stderr.write(f"eyespot: {self.baseFilename}: cannot be written ({sys.exception()}); lines go missing\n")
