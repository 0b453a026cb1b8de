"""Help texts that fit the terminal: wide lines are broken between words, commands so that they still can be run."""

import difflib
import re
import shutil
import textwrap

STYLE = re.compile(r"\x1b\[[0-9;]*m")
_COMMAND = re.compile(r"\s*(?:eyespot|torchrun)\b")
_COLUMN = re.compile(r"\s*\S.*?\s{2,}(?=\S)")
"""What stands before the second column of a line."""
_BOX = ("│", "╭", "╰", "┌", "└")


def show_help(text: str) -> None:
    """Prints a help text, no wider than the terminal."""
    print(fitted(text.rstrip("\n"), shutil.get_terminal_size().columns))


def fitted(text: str, width: int) -> str:
    """The text with every line that is wider broken: its second column stays one, its commands go on after a backslash.

    Args:
        text: lines, perhaps with colours, and with drawn boxes, which stay.
        width: of the terminal, characters; below 40 it is taken as 40.
    """
    return "\n".join(_broken(line, max(40, width)) for line in text.split("\n"))


def unknown_command(word: str, known: list[str], prog: str) -> str:
    """One line about a command that there is not.

    Args:
        word: what was typed.
        known: the commands that there are.
        prog: what stands before them.
    """
    near = difflib.get_close_matches(word, known, 1)
    hint = f"perhaps you meant {prog} {near[0]}" if near else f"see {prog} --help"
    return f"command {word!r}: not one of {', '.join(known)}; {hint}"


def _broken(line: str, width: int) -> str:
    if len(STYLE.sub("", line)) <= width or line.startswith(_BOX):
        return line
    end, column = "\n", _COLUMN.match(line)
    if "usage" in line[:12]:
        line, indent = re.sub(r",(?=[\w-]+[,}])", ", ", line), 7
    elif column is not None:
        indent = len(column[0])
    else:
        indent = len(line) - len(line.lstrip())
        if _COMMAND.match(line) is not None:
            end, indent, width = " \\\n", indent + 4, width - 2
    indent = min(indent, width // 2)
    shown = textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    return end.join(shown)
