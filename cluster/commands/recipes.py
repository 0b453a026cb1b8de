"""``eyespot recipes``: what can be trained."""

import inspect

from rich.console import Console
from rich.table import Table

HELP = """usage: eyespot recipes

Lists the built-in recipes. Every setting of one: eyespot pretrain RECIPE --help
"""


def main(argv: list[str]) -> int:
    """Prints one row per recipe."""
    if argv:
        print(HELP, end="")
        return 0 if argv[0] in ("-h", "--help") else 2
    from eyespot.pretrain.config import recipe_names

    table = Table(show_lines=True)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it is", min_width=30)
    for header in ("pixels", "batch", "steps"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, recipe in sorted(recipe_names().items()):
        run = recipe()
        sizes = (str(run.encoder.image_size), str(run.data.batch_size), f"{run.steps:,}")
        table.add_row(name, inspect.getdoc(recipe), *sizes)
    Console().print(table)
    return 0
