"""The one exception whose message is meant for the person who typed the command."""


class UserError(Exception):
    """The user's input is wrong. The message is one line: the field, its value and the fix.

    The console command prints it without a traceback and exits with code 2.
    """
