"""Every range that a config declares is kept: found in the sources, tried a hair's breadth outside and on its end."""

import dataclasses
import importlib
import inspect
import math
import typing
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple

import pytest
from annotated_types import Ge, Gt, Le, Lt

from eyespot.cluster.commands.doctor import Options
from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.manifest import ImageStats, Manifest
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.recipe_lookup import make_run

ROOT = Path(__file__).parents[1]
VIEWS = ViewSpec(views=(RandomView(),))
STATS = ImageStats(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), height=(8, 8, 8), width=(8, 8, 8))
MANIFEST = Manifest(name="a", num_samples=1, num_labeled=0, classes=[], shards=[], image_stats=STATS, index_sha256="")
FRAMES = dict(num_frames=1, rate=(8.0, 8.0, 8.0), count=(1, 1, 1), frames_sha256="", clips_sha256="", motion_sha256="")
NEEDED = {
    "Clip": lambda digits: dict(frames=2),
    "Run": lambda digits: {"objective": make_run("mae_tiny").objective},
    "Fleet": lambda digits: {"gpus": 1, "node_gpus": 1, "memory_gb": 80},
    "Question": lambda digits: {"run": make_run("mae_tiny")},
    "Length": lambda digits: {"run": make_run("mae_tiny")},
    "LoaderSpec": lambda digits: {"shards": ShardFolder.find(digits), "views": VIEWS, "batch_size": 1},
    "Evaluation": lambda digits: {"protocol": "knn", "model": "run", "shards": Path("shards")},
    "Curation": lambda digits: {"shards": Path("shards"), "out": Path("out")},
    "Alike": lambda digits: {"shards": Path("shards"), "out": Path("out")},
    "Duplicates": lambda digits: {"shards": Path("shards"), "out": Path("out")},
    "Leaks": lambda digits: {"shards": Path("shards"), "out": Path("out")},
    "Chosen": lambda digits: {"shards": Path("shards"), "out": Path("out"), "model": "run"},
    "Balance": lambda digits: {"shards": Path("shards"), "out": Path("out"), "model": "run", "keep": 5},
    "Retrieve": lambda digits: {"shards": Path("shards"), "out": Path("out"), "model": "run"},
    "Selecting": lambda digits: {"run": "run"},
    "JointEvaluation": lambda digits: {"protocol": "zero-shot", "run": "run", "shards": Path("shards")},
    "Show": lambda digits: {"folder": "shards", "recipe": "mae_tiny"},
    "Index": lambda digits: {"folder": "shards"},
    "Pack": lambda digits: {"source": "photos", "destination": Path("shards")},
    "Add": lambda digits: {"source": "photos", "destination": Path("shards")},
    "Merge": lambda digits: {"destination": Path("shards")},
    "Serving": lambda digits: {"release": "runs/first/release"},
    "Manifest": lambda digits: dataclasses.asdict(MANIFEST) | {"image_stats": STATS, "num_labeled": 0},
    "Pieces": lambda digits: dict(samples=[1], page_rows=1, num_shards=1, longest_name=1, shards_sha256=""),
    "ImageStats": lambda digits: dataclasses.asdict(STATS),
    "Members": lambda digits: {"count": 1, "sha256": ""},
    "AudioView": lambda digits: {"mels": 1},
    "DepthView": lambda digits: {"of": 0},
    "Masks": lambda digits: {"num_masks": 1, "ignored": 255, "pixels": [1], "sha256": ""},
    "Shard": lambda digits: {"tar": "a.tar", "num_samples": 1, "bytes": 1, "sha256": ""},
    "Frames": lambda digits: FRAMES,
    "Tracks": lambda digits: {"shards": Path("shards"), "destination": Path("tracks")},
    "Skipped": lambda digits: {"reason": "a folder", "count": 1},
    "Request": lambda digits: {"run_dir": Path("run")},
}
"""By a class's name, values for the fields that have no default."""
PREFIXES = {
    "DataConfig": "data.",
    "EncoderConfig": "encoder.",
    "OptimConfig": "optim.",
    "StartConfig": "start.",
    "Efficiency": "efficiency ",
}
PREFIXES |= {"NvjpegConfig": "data.nvjpeg."}
PREFIXES |= {
    "ImageStats": "image_stats.",
    "Bands": "bands.",
    "Masks": "masks.",
    "Pieces": "pieces.",
    "Members": "members.",
    "Frames": "frames.",
}
FLAGS = (
    "Alike",
    "Balance",
    "Chosen",
    "Curation",
    "Duplicates",
    "Evaluation",
    "JointEvaluation",
    "Leaks",
    "Request",
    "Retrieve",
    "Selecting",
    "Serving",
)
"""Classes whose messages name fields as flags."""


class Bound(NamedTuple):
    """One end of a range of one number."""

    kind: type
    field: str
    place: tuple[int, int] | None
    """Which of a tuple's numbers, of how many; None = the field is no tuple."""
    end: Ge | Gt | Le | Lt
    whole: bool
    """The number is an int."""

    def __str__(self) -> str:
        return f"{self.kind.__module__}:{self.kind.__qualname__}.{self.field}[{self.place}] {self.end}"

    def values(self) -> tuple[float, float | None]:
        """The nearest number outside, and the end itself where it belongs to the range."""
        (end,) = dataclasses.astuple(self.end)
        if isinstance(self.end, Gt | Lt):
            return (end if self.whole else float(end)), None
        away = -1 if isinstance(self.end, Ge) else 1
        return (end + away, end) if self.whole else (math.nextafter(end, away * math.inf), float(end))

    def build(self, value: float, digits: Path) -> tuple[Any, Any]:
        """The config with that number, and the field's value."""
        known = NEEDED[self.kind.__name__](digits) if self.kind.__name__ in NEEDED else {}
        given = {name: wanted for name, wanted in known.items() if name in self.kind.__dataclass_fields__}
        whole: Any = value
        if self.place is not None:
            number, width = self.place
            default = self.kind.__dataclass_fields__[self.field].default
            usual = known.get(self.field) or (None if default is dataclasses.MISSING else default) or (1.0,) * width
            whole = (*usual[:number], value, *usual[number + 1 :])
        return lambda: self.kind(**{**given, self.field: whole}), whole


def modules() -> list[ModuleType]:
    """Those that declare ranges, by what they import."""
    folders = [ROOT / folder for folder in ("data_pipeline", "pretrain", "eval", "cluster")]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    declaring = [path for path in files if "from annotated_types import" in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in declaring]
    return [importlib.import_module(f"eyespot.{name}") for name in names if name != "data_pipeline.ranges"]


def kinds(owner: Any, module: ModuleType) -> list[type]:
    """The dataclasses that a module or a class of it defines."""
    found = []
    for _, kind in inspect.getmembers(owner, inspect.isclass):
        if kind.__module__ == module.__name__ and kind is not owner:
            found += [kind] if dataclasses.is_dataclass(kind) else kinds(kind, module)
    return [kind for kind in found if not inspect.isabstract(kind)]  # what follows from it is tried


def numbers(hint: Any, place: tuple[int, int] | None = None) -> list[tuple[Any, type, tuple[Any, ...]]]:
    """Place, type and marks of each number in a type."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        return [(place, parts[0], parts[1:]), *numbers(parts[0], place)]
    if typing.get_origin(hint) is tuple:
        return [found for number, part in enumerate(parts) for found in numbers(part, (number, len(parts)))]
    return [found for part in parts for found in numbers(part, place)]


def bounds() -> list[Bound]:
    found = []
    for module in modules():
        for kind in kinds(module, module):
            hints = typing.get_type_hints(kind, include_extras=True)
            for field in dataclasses.fields(kind):
                for place, number, marks in numbers(hints[field.name]):
                    ends = [mark for mark in marks if isinstance(mark, Ge | Gt | Le | Lt)]
                    found += [Bound(kind, field.name, place, end, number is int) for end in ends if end != Le(math.inf)]
    return found


BOUNDS = bounds()


def test_ranges_are_found_everywhere():
    assert len(BOUNDS) > 180
    assert {bound.kind.__module__.split(".")[1] for bound in BOUNDS} == {"data_pipeline", "pretrain", "cluster"}
    assert Options in {bound.kind for bound in BOUNDS}
    configs = {kind for bound in BOUNDS if issubclass(kind := bound.kind, Objective.Config)}
    assert len(configs) > 20
    assert {"Run", "DataConfig", "OptimConfig", "EncoderConfig", "Submission"} <= {
        bound.kind.__name__ for bound in BOUNDS
    }


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_a_value_just_outside_is_refused_and_the_end_is_taken(bound: Bound, digits: Path):
    name = bound.kind.__name__
    prefix = "objective." if issubclass(bound.kind, Objective.Config) else PREFIXES.get(name, "")
    shown = f"--{bound.field.replace('_', '-')}" if name in FLAGS else f"{prefix}{bound.field}"
    outside, end = bound.values()
    for wrong in (outside, *(() if bound.whole else (math.nan,))):
        build, whole = bound.build(wrong, digits)
        with pytest.raises(UserError) as caught:
            build()
        message = str(caught.value)
        assert message.startswith(f"{shown} {whole}: ")
        assert "\n" not in message
        (limit,) = dataclasses.astuple(bound.end)
        assert f"{limit:g}" in message or str(limit) in message
        assert " must " in message, "what would be right is said, not only what is wrong"
    if end is not None:
        build, whole = bound.build(end, digits)
        try:
            build()
        except UserError as error:  # another rule of the class may forbid it: 16 channels for 1 head, mixed fields
            rule = str(caught.value).split(": ", 1)[1]
            assert str(error) != f"{shown} {whole}: {rule}"
