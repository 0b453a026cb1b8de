"""Cards of the methods, for tables and pages: what each file of ``objectives`` and its recipes say of themselves."""

import importlib
import inspect
import json
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import Path

import eyespot.pretrain.objectives
import eyespot.pretrain.recipes
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import Run
from eyespot.pretrain.installed_recipes import Method
from eyespot.pretrain.objective import FAMILIES, About
from eyespot.pretrain.recipe_lookup import gates, installed_names, recipe_names
from eyespot.pretrain.recipes.gate import Gate

MEASURED = Path(eyespot.pretrain.recipes.__file__).with_name("measured.json")
"""What ``make zoo`` found; part of the package."""
MEASURED_ON_VIDEOS = MEASURED.with_name("measured_on_videos.json")
"""What benchmarks/video_gates.py found."""
MEASURED_ON_MEMBERS = MEASURED.with_name("measured_on_members.json")
"""What benchmarks/member_gates.py found."""


@dataclass(kw_only=True, slots=True)
class Measured:
    """What short training on CIFAR-10 brought, accuracies of the linear probe in percent."""

    encoder: str
    linear: float
    random: float
    """Of the same encoder with random weights."""
    passed: bool
    """Whether that is 2 points or more, beyond doubt."""

    @property
    def gain(self) -> float:
        """Points of the linear probe over random weights."""
        return self.linear - self.random

    @property
    def short(self) -> str:
        """For tables."""
        return f"{self.gain:+.1f} points" + ("" if self.passed else ", not passed")

    def __str__(self) -> str:
        verdict = "" if self.passed else " (gate of 2 points not passed)"
        return f"{self.encoder}, minutes of CIFAR-10, linear: {self.linear} %, random {self.random} %{verdict}"


@dataclass(kw_only=True, slots=True)
class MeasuredByQuestion:
    """What short training brought a method that is asked what it is there for, about samples that it never saw."""

    encoder: str
    asked: str
    """What the figures are."""
    on: str
    """Of which data."""
    trained: float
    untrained: float
    """The same method before its first step."""
    passed: bool
    """Whether that is better, beyond doubt, and better than what it must beat."""
    samples: str = "videos"
    """What the samples are called."""

    @property
    def short(self) -> str:
        """For tables."""
        figures = f"{self.asked} {self.trained:.2f}, untrained {self.untrained:.2f}"
        return figures + ("" if self.passed else ", not passed")

    def __str__(self) -> str:
        verdict = "" if self.passed else " (gate not passed)"
        figures = f"{self.asked} {self.trained:.3f}, untrained {self.untrained:.3f}"
        return f"{self.encoder}, minutes of {self.on}, unseen {self.samples}: {figures}{verdict}"


@dataclass(kw_only=True, slots=True)
class Card:
    """One method."""

    name: str
    about: About
    text: str
    """What the file says of itself, whole."""
    picture_rows: tuple[str, ...]
    recipes: dict[str, Run]
    gate: Gate | None
    measured: Measured | MeasuredByQuestion | None
    package: str = ""
    """The installed package that it comes with; "" = eyespot."""

    @property
    def title(self) -> str:
        """The first sentence, without the source that stands in brackets."""
        first = " ".join(self.text.partition("\n\n")[0].split())
        return first.partition(" (")[0].rstrip(".")

    @property
    def formulas(self) -> list[str]:
        """Indented parts of the text."""
        parts = self.text.split("\n\n")
        return [inspect.cleandoc(part) for part in parts if all(line.startswith("    ") for line in part.split("\n"))]

    @property
    def paper(self) -> str:
        """Who and when."""
        return f"{self.about.paper} {self.about.year}"


def paragraphs(text: str) -> list[str]:
    """Each on one line, to be wrapped anew; formulas stay as they are, items begin a line."""
    parts = []
    for part in text.split("\n\n"):
        lines = [f"\n{line}" if line.startswith("- ") else line.strip() for line in part.split("\n")]
        parts.append(part if part.startswith("    ") else " ".join(lines).replace(" \n", "\n").strip())
    return parts


def cards() -> list[Card]:
    """All methods of eyespot that have a recipe, by family and then by year."""
    names = [info.name for info in pkgutil.iter_modules(eyespot.pretrain.objectives.__path__)]
    recipes: dict[str, dict[str, Run]] = {name: {} for name in names}
    for name, recipe in recipe_names().items():
        run = recipe()
        recipes[type(run.objective).__module__.rpartition(".")[2]][name] = run
    gate, measured = gates(), _measured()
    found = [_card(name, recipes[name], gate.get(name), measured.get(name)) for name in names if recipes[name]]
    return _sorted(found)


def installed_cards() -> tuple[list[Card], list[str]]:
    """Those of packages that the user has installed, in the same order; and a line for each that cannot be had."""
    found, wrong = installed_names()
    cards = []
    for method, recipes in found.items():
        try:
            cards.append(_installed_card(method, {name: recipe() for name, recipe in recipes.items()}))
        except Exception as error:
            wrong.append(str(error) if isinstance(error, UserError) else f"{method}: {type(error).__name__}: {error}")
    return _sorted(cards), wrong


def _sorted(found: list[Card]) -> list[Card]:
    return sorted(found, key=lambda card: (FAMILIES.index(card.about.family), card.about.year, card.name))


def _installed_card(method: Method, recipes: dict[str, Run]) -> Card:
    """What the objective's file says of itself; of recipes for one of eyespot's objectives, what theirs says."""
    for name, run in recipes.items():
        if not isinstance(run, Run):
            raise UserError(f"{method}: {name} returns {type(run).__name__}, not a Run")
    config = type(next(iter(recipes.values())).objective)
    about = getattr(config, "about", None)
    if not isinstance(about, About) or about.family not in FAMILIES:
        raise UserError(f"{method}: {config.__qualname__} has no card; set about = About(family=..., ...) in it")
    own = not config.__module__.startswith("eyespot.")
    module = importlib.import_module(config.__module__ if own else method.module)
    objective = getattr(sys.modules[config.__module__], config.__qualname__.partition(".")[0])
    return Card(
        name=method.name,
        about=about,
        text=inspect.cleandoc(module.__doc__ or ""),
        picture_rows=getattr(objective, "picture_rows", ()),
        recipes=recipes,
        gate=None,
        measured=None,
        package=method.package,
    )


def _measured() -> dict[str, Measured | MeasuredByQuestion]:
    """By method."""
    found: dict[str, Measured | MeasuredByQuestion] = {}
    for path, kind in (
        (MEASURED, Measured),
        (MEASURED_ON_VIDEOS, MeasuredByQuestion),
        (MEASURED_ON_MEMBERS, MeasuredByQuestion),
    ):
        rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        found |= {method: kind(**row) for method, row in rows.items()}
    return found


def _card(
    name: str, recipes: dict[str, Run], gate: Gate | None, measured: Measured | MeasuredByQuestion | None
) -> Card:
    module = importlib.import_module(f"eyespot.pretrain.objectives.{name}")
    config = type(next(iter(recipes.values())).objective)
    objective = getattr(module, config.__qualname__.partition(".")[0])
    return Card(
        name=name,
        about=config.about,
        text=inspect.cleandoc(module.__doc__ or ""),
        picture_rows=objective.picture_rows,
        recipes=recipes,
        gate=gate,
        measured=measured,
    )
