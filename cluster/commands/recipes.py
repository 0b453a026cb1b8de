"""``eyespot recipes``: what can be trained."""

import difflib
import inspect
import sys
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from eyespot.cluster.help_text import show_help
from eyespot.data_pipeline.console import Console
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.terminal import brief, one_line

if TYPE_CHECKING:
    from eyespot.cluster.method_cards import Card

HELP = """usage: eyespot recipes [METHOD]

Lists the methods, family by family, with their recipes, those of installed packages too; or tells all about one.

  eyespot recipes                   all methods
  eyespot recipes mae               one at length: what it learns from, its recipes, a command to begin with
  eyespot pretrain mae_tiny --help  every setting of a recipe

Exit codes: 0 done, 2 there is no such method, 1 anything else.
"""


def main(argv: list[str]) -> int:
    """Prints one row per method, or one method at length."""
    if len(argv) > 1 or any(word.startswith("-") for word in argv):
        show_help(HELP)
        return ExitCode.DONE if argv[0] in ("-h", "--help") else ExitCode.WRONG_INPUT
    from eyespot.cluster.method_cards import cards, installed_cards

    (installed, wrong), console = installed_cards(), Console(highlight=False)
    found = [*cards(), *installed]
    for line in wrong:
        print(brief(one_line(f"eyespot: {line}")), file=sys.stderr)
    if argv:
        _tell(_chosen(argv[0], found), console)
        return ExitCode.DONE
    for family in dict.fromkeys(card.about.family for card in found):
        console.print(_family(family, [card for card in found if card.about.family == family]))
    console.print(
        "eyespot recipes METHOD tells more of one. Gate: minutes of training on CIFAR-10, linear probe;"
        " of videos, the method's own question."
    )
    return ExitCode.DONE


def _chosen(name: str, found: list["Card"]) -> "Card":
    for card in found:
        if name == card.name or name in card.recipes:
            return card
    near = difflib.get_close_matches(name, [card.name for card in found], 1)
    raise UserError(f"method {name}: there is none; {f'did you mean {near[0]}?' if near else 'see eyespot recipes'}")


def _family(family: str, found: list["Card"]) -> Table:
    table = Table(title=family, title_style="bold", title_justify="left", box=box.HORIZONTALS, show_lines=True)
    table.add_column("method", max_width=20)
    table.add_column("what it finds out", ratio=1, overflow="fold")
    table.add_column("recipes", no_wrap=True)
    for card in found:
        about = card.about
        said = [("", about.task), ("needs ", about.needs), ("paper: ", about.expected), _source(card)]
        table.add_row(
            Group(Text(card.name, "bold"), about.paper, str(about.year)),
            "\n".join(f"{what}{words}" for what, words in said if words),
            "\n".join(card.recipes),
        )
    return table


def _source(card: "Card") -> tuple[str, str]:
    return ("package ", card.package) if card.package else ("gate: ", _gate(card))


def _gate(card: "Card") -> str:
    return str(card.measured) if card.measured else "not measured"


def _tell(card: "Card", console: Console) -> None:
    """Everything that is known of one method."""
    from eyespot.cluster.method_cards import paragraphs
    from eyespot.pretrain.recipe_lookup import all_names

    for part in paragraphs(card.text):
        console.print(part, "", sep="\n", soft_wrap=part.startswith("    "))
    console.print(f"Needs: {card.about.needs or 'images'}")
    console.print(f"Package: {card.package}\n" if card.package else f"Gate: {_gate(card)}\n")
    table = Table("recipe", "encoder", box=box.HORIZONTALS)
    for header in ("pixels", "batch", "steps"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, run in card.recipes.items():
        table.add_row(name, run.encoder.name, str(run.encoder.image_size), str(run.data.batch_size), f"{run.steps:,}")
    console.print(table)
    functions = all_names()
    for name in card.recipes:
        console.print(f"\n{name}: {inspect.getdoc(functions[name]) or 'says nothing of itself'}")
    first = next((name for name in card.recipes if name.endswith("_tiny")), next(iter(card.recipes)))
    console.print(f"\neyespot pretrain {first} --data.shards SHARDS --run-dir RUN", soft_wrap=True)
    console.print(f"eyespot pretrain {first} --help", soft_wrap=True)
