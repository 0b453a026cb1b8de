"""Exhibits: the parts of the page that need the encoder itself, computed on a few images, the same ones every time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.subject import Subject, subjects_of
from eyespot.eval.report.image_grid import Plate
from eyespot.eval.report.rendering import Section
from eyespot.eval.report.run_data import Story, nothing_seen
from eyespot.eval.report.sample_images import Few, Specimens, choose_specimens, features_of_few, images_of
from eyespot.pretrain.checkpoints.folders import newest
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.arithmetic import set_arithmetic
from eyespot.pretrain.distributed.devices import own_device
from eyespot.pretrain.run_json import load_run


@dataclass(kw_only=True, slots=True)
class Look:
    """One run's encoder and what it is shown."""

    story: Story
    run: Run
    shards: ShardFolder
    """That the run learned from."""
    checkpoint: Path
    subject: Subject
    specimens: Specimens
    device: torch.device
    images: Float[Tensor, "n 3 h w"]
    """The pictured specimens as the encoder wants them."""
    kind: str
    """Of features: what the nearest-neighbour protocol chose, else the encoder's first."""
    say: Callable[[str], None]
    """Tells the person at the terminal how far it is."""
    _features: dict[str, Tensor] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """What the pictured images are called."""
        classes = self.specimens.classes
        labels = self.specimens.pictured.labels.tolist()
        return [classes[label] if classes else f"image {n}" for n, label in enumerate(labels, 1)]

    def mapped(self) -> Float[Tensor, "n d"]:
        """Features of the mapped specimens."""
        return self._of("mapped", self.specimens.mapped)

    def bank(self) -> Float[Tensor, "n d"]:
        """Features of the training images among which neighbours are looked for."""
        return self._of("bank", self.specimens.bank)

    def _of(self, name: str, few: Few) -> Float[Tensor, "n d"]:
        if name not in self._features:
            self._features[name] = features_of_few(few, self.subject, self.device, self.kind, self.say)
            if not self._features[name].isfinite().all():
                raise UserError("its features are not all finite: the weights are broken")
        return self._features[name]


@dataclass(kw_only=True, slots=True)
class Exhibit:
    """What is to be seen of one run in a part: plates, or a chart with words beside it."""

    plates: Sequence[Plate] = ()
    min_width: int = 0
    """Of each plate, CSS pixels: as many stand side by side as there is room for."""
    chart: Markup | None = None
    words: str = ""
    about: str = ""


@dataclass(kw_only=True, slots=True)
class EncoderPart:
    """One section of the page, made for each run."""

    title: str
    about: str
    """What is to be seen, in one or two sentences."""
    make: Callable[[Look], Exhibit]
    """Raises a UserError whose line says why there is none."""
    half: bool = False
    """Two runs fit beside each other."""


def exhibit_sections(stories: Sequence[Story], parts: Sequence[EncoderPart], device: str = "auto") -> list[Section]:
    """A section for each part, with a card for each run; what cannot be made is left out with a sentence.

    Parts that no run has, such as attention in a ResNet, are named in a section of their own.

    Raises:
        UserError: the device, "auto", "cpu" or "cuda", cannot be used.
    """
    chosen = own_device(device)
    exhibits: list[list[tuple[str, int, Exhibit]]] = [[] for _ in parts]
    missing: list[dict[str, list[str]]] = [{} for _ in parts]
    with ProgressBar("", len(stories) * len(parts), transient=True) as bar:
        for number, story in enumerate(stories):
            bar.describe(f"looking at {story.label}")
            look = look_at(story, bar.describe, chosen)
            for place, part in enumerate(parts):
                bar.describe(f"{story.label}: {part.title.lower()}")
                try:
                    if isinstance(look, str):
                        raise UserError(look)
                    heading = story.label if len(stories) > 1 else ""
                    exhibits[place].append((heading, number, part.make(look)))
                except UserError as error:
                    missing[place].setdefault(str(error), []).append(story.label)
                bar.advance()
    if not any(exhibits):
        return [nothing_seen({reason for each in missing for reason in each})]
    sections: list[Section] = []
    absent: list[str] = []
    for part, made, missed in zip(parts, exhibits, missing, strict=True):
        said = [f"Left out for {', '.join(labels)}: {reason}." for reason, labels in missed.items()]
        if not made:
            absent += [f"{part.title}. {sentence}" for sentence in said]
            continue
        data = {"about": part.about, "half": part.half, "exhibits": made, "missing": said}
        sections.append(Section(title=part.title, template="exhibits", data=data))
    if absent:
        sections.append(Section(title="Left out", template="exhibits", data={"exhibits": [], "missing": absent}))
    return sections


def look_at(story: Story, say: Callable[[str], None], device: torch.device) -> Look | str:
    """Everything that is looked at, with an encoder on this device, or why nothing can be."""
    try:
        checkpoint, unseen = newest(story.run_dir), story.unseen()
        if checkpoint is None or unseen:
            return unseen
        _, run = load_run(story.run_dir)
        set_arithmetic(device)
        subject = subjects_of(str(story.run_dir), seed=0)[0]
        subject.encoder.to(device)
        shards = find_shards(story.shards)
        specimens = choose_specimens(shards)
        return Look(
            story=story,
            run=run,
            shards=shards,
            checkpoint=checkpoint,
            subject=subject,
            specimens=specimens,
            device=device,
            images=images_of(specimens.pictured, subject.views, device),
            kind=_kind(story),
            say=lambda how_far: say(f"{story.label}: {how_far}"),
        )
    except UserError as error:
        return str(error)


def _kind(story: Story) -> str:
    chosen = [r.settings.get("features") for r in story.results if r.protocol == "knn" and r.role == "encoder"]
    return str(chosen[-1]) if chosen else ""
