"""The exceptions whose message is meant for the person who typed the command, and which of others' are an outage."""

import errno
import socket

BUSY = {429, 500, 502, 503, 504}
"""What a server answers that may have the thing, and cannot give it now."""
_UNREACHABLE = {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}


class UserError(Exception):
    """The user's input is wrong. The message is one line: the field, its value and the fix.

    The console command prints it without a traceback and exits with code 2.
    """


class Outage(Exception):
    """A file system or a device does not give what it has, for longer than anybody wants to wait. One line.

    Nobody's input is wrong: the console command exits with code 1, and whoever watches over a run starts it again.
    """


def is_network_outage(error: object) -> bool:
    """Whether what failed, or what that came from, is a network or a server that may work again."""
    while isinstance(error, BaseException):
        if isinstance(error, socket.gaierror):
            return error.errno == socket.EAI_AGAIN  # else there is no such name, or no network at all
        if isinstance(error, ConnectionError | TimeoutError) or getattr(error, "errno", None) in _UNREACHABLE:
            return True
        if getattr(getattr(error, "response", None), "status_code", None) in BUSY:
            return True
        if type(error).__name__ == "ResponseError" and "error responses" in str(error):
            return True  # urllib3's, which asked again until it was tired of "too many 503 error responses"
        error = error.__cause__ or error.__context__
    return False
