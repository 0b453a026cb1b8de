"""``eyespot completion``: prints what teaches a shell to complete eyespot's commands, recipes and flags."""

import sys

from eyespot.cluster.completion.candidates import FILES, complete
from eyespot.cluster.completion.index import file_of_index, read_index, refresh_behind
from eyespot.cluster.completion.scripts import SCRIPTS
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode

HELP = """usage: eyespot completion bash|zsh|fish

Prints a script, after which TAB completes commands, recipes, protocols, flags and their choices.

  eyespot completion bash > ~/.local/share/bash-completion/completions/eyespot
  eyespot completion zsh > ~/.zfunc/_eyespot        with fpath+=~/.zfunc before compinit in ~/.zshrc
  eyespot completion fish > ~/.config/fish/completions/eyespot.fish

The flags of every recipe are looked up once (seconds), and kept in ~/.cache/eyespot; after an update TAB does so by
itself, in the background. --refresh does it now.
"""


def main(argv: list[str]) -> int:
    """Prints a script; or, for those scripts, what may stand at the end of the words so far."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return ExitCode.DONE if argv else ExitCode.WRONG_INPUT
    if argv[0] == "--words":
        index = read_index()
        if not index.is_fresh:
            refresh_behind()
        found = complete(argv[1:] or [""], index)
        sys.stdout.write("".join(f"{line}\n" for line in found if line != FILES))
        sys.stdout.write(f"{FILES}\n" if FILES in found else "")
        return ExitCode.DONE
    if argv == ["--refresh"]:
        _refresh()
        return ExitCode.DONE
    if len(argv) > 1 or argv[0] not in SCRIPTS:
        raise UserError(f"shell {' '.join(argv)!r}: choose one of {', '.join(SCRIPTS)}; see eyespot completion --help")
    if not read_index().is_fresh:
        print("eyespot: looking up the flags of all recipes, once", file=sys.stderr)
        _refresh()
    print(SCRIPTS[argv[0]], end="")
    return ExitCode.DONE


def _refresh() -> None:
    # Imported here, because it imports every command, and torch.
    from eyespot.cluster.completion.look_up import write_index

    try:
        write_index()
    except OSError as error:
        raise UserError(
            f"{file_of_index()}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from error
