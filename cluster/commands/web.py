"""``eyespot web RUNS``: the runs as pages in a browser."""

import os
import shlex
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Ge, Le

from eyespot.cluster.arguments import parse
from eyespot.cluster.help_text import show_help
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.ranges import check_ranges

if TYPE_CHECKING:
    from eyespot.cluster.web.server import Server

HELP = """usage: eyespot web [RUN or folder of runs ...] [--port N] [--host NAME] [--token]

The runs as pages in a browser: all of them with state, progress and loss; curves that move while they train; pictures,
evaluations, where the time goes, settings, logs; several runs side by side by ticking them. Without a folder: those
in runs/. Runs that begin later appear by themselves. The pages are read-only, and need nothing but the folders: no
database, no service, no network.

  eyespot web                          then open the address that it prints; Ctrl-C ends it
  eyespot web runs sweeps/lr --port 8000
  eyespot web --token                  where others are logged in to this machine, who could open the pages as well

Runs on a cluster: start it there, and bring the port to your own computer, in a second terminal:
  ssh -L 7373:localhost:7373 you@login.cluster.org

  --port N      7373 or the next free one; 0 = any free one
  --host NAME   127.0.0.1: this machine alone. Any other (0.0.0.0 = all addresses of this machine) asks for a token,
                which stands in the printed address. The way there is not encrypted: ssh -L is, and needs no --host
  --token       asks for the token on 127.0.0.1 too

Exit codes: 0 done, 2 the input is wrong, 1 anything else.
"""


@dataclass(kw_only=True, slots=True)
class Request:
    """Show runs in a browser."""

    places: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Run folders, and folders of runs."""
    port: Annotated[int, Ge(0), Le(65535)] | None = None
    """Where it listens."""
    host: str = "127.0.0.1"
    """Whom it listens to."""
    token: tyro.conf.FlagCreatePairsOff[bool] = False
    """Ask for a token on this machine too."""

    def __post_init__(self) -> None:
        check_ranges(self, "--")
        for place in self.places:
            if not os.path.isdir(place):  # noqa: PTH112 - Path.is_dir raises where a folder may not be entered
                raise UserError(f"{place}: no such folder; name a run folder, or a folder of runs")


def main(argv: list[str]) -> int:
    """Serves until Ctrl-C."""
    if argv and argv[0] in ("-h", "--help"):
        show_help(HELP)
        return ExitCode.DONE
    request = parse(Request, argv, prog="eyespot web")
    server = _start(request)
    try:
        for line in _told(server, request):
            print(line, flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)
    finally:
        server.server_close()
    return ExitCode.DONE


def _start(request: Request) -> "Server":
    from eyespot.cluster.web.access import Access
    from eyespot.cluster.web.pages import Pages
    from eyespot.cluster.web.run_list import RunList
    from eyespot.cluster.web.server import Server

    try:
        access = Access(request.host, request.token)
    except OSError as error:
        raise UserError(f"--host {request.host}: {error.strerror}; name an address of this machine") from error
    try:
        return Server(Pages(RunList(request.places)), access, request.host, request.port)
    except OSError as error:
        words = f"--host {request.host} --port {request.port}: {error.strerror}"
        raise UserError(f"{words}; name another port, or none for the next free one") from error


def _told(server: "Server", request: Request) -> list[str]:
    """What a person has to know."""
    everyone = request.host in ("", "0.0.0.0", "::")
    name = socket.gethostname() if everyone else request.host
    name = f"[{name}]" if ":" in name else name
    access, port = server.access, server.port
    token = f"?token={access.token}" if access.token else ""
    lines = [f"{shlex.join(map(str, request.places))} at http://{name}:{port}/{token}  (Ctrl-C ends it)"]
    if not access.local:
        lines.append(
            "Whoever has this address can read the runs, and so can the network on the way: it is not encrypted."
        )
    elif "SSH_CONNECTION" in os.environ:
        login = f"{os.environ.get('USER', 'you')}@{socket.gethostname()}"
        lines.append(f"From your own computer: ssh -L {port}:localhost:{port} {login}, then open that address there.")
    return lines
