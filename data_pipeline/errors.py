"""The exceptions whose message is meant for the person who typed the command."""


class UserError(Exception):
    """The user's input is wrong. The message is one line: the field, its value and the fix.

    The console command prints it without a traceback and exits with code 2.
    """


class Outage(Exception):
    """A file system or a device does not give what it has, for longer than anybody wants to wait. One line.

    Nobody's input is wrong: the console command exits with code 1, and whoever watches over a run starts it again.
    """
