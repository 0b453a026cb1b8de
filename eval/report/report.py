"""The whole page, for one run or for several side by side."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import eyespot
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.report.rendering import Section, inlined, render
from eyespot.eval.report.result_section import judgement
from eyespot.eval.report.run_data import Story, nothing_seen, read_stories
from eyespot.eval.report.settings_sections import files, header, reproduce, settings
from eyespot.eval.report.training_sections import curves, speed, watched, which_checkpoint


def write_report(run_dirs: Sequence[Path], out: Path | None = None, *, look: bool = True, device: str = "auto") -> Path:
    """Writes the page, self-contained, from whatever the run folders hold so far.

    Args:
        run_dirs: one run folder or several, in the order of the page.
        out: the file; None = ``report.html`` in the run folder, or here where there are several.
        look: also shows the encoders images: views, reconstructions, attention and the like. Takes from seconds to
            minutes for each run; the images are few and always the same ones.
        device: where the encoders look at them: "auto", "cpu" or "cuda".

    Raises:
        UserError: one is not a run folder, the device cannot be used, or the page cannot be written.
    """
    stories = read_stories(run_dirs)
    path = out or (run_dirs[0] / "report.html" if len(run_dirs) == 1 else Path("report.html"))
    if path.is_dir():
        path = path / "report.html"
    exhibits = _exhibits(stories, device) if look else []
    carried = [show(story, len(stories) > 1) for show in (_carried_masks, _carried_points) for story in stories]
    sections = [judgement(stories), *carried, *exhibits]
    if not any(shown.plates for section in exhibits for *_, shown in section.data["exhibits"]):
        sections += [_last_picture(story, len(stories) > 1) for story in stories]
    sections += [which_checkpoint(stories), watched(stories), curves(stories), speed(stories)]
    sections += [settings(stories), reproduce(stories), files(stories, path)]
    text = render(
        "page.html.j2",
        title=" · ".join(story.label for story in stories),
        header=header(stories),
        sections=[section for section in sections if section is not None],
        version=eyespot.__version__,
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    try:
        write_bytes(path, text.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
    return path


def _exhibits(stories: Sequence[Story], device: str) -> list[Section]:
    reasons = [story.unseen() for story in stories]
    if all(reasons):
        return [nothing_seen(reasons)]
    from eyespot.eval.report import class_sections, image_sections
    from eyespot.eval.report.encoder_sections import exhibit_sections

    return exhibit_sections(stories, [*image_sections.PARTS, *class_sections.PARTS], device)


def _carried_masks(story: Story, named: bool) -> Section | None:
    """The first videos through which ``eyespot eval propagate`` carried masks by the newest encoder that it judged."""
    caption = "A row for each video: frames from its first, whose mask was given, to its last. Coloured: where the"
    caption += " features carried it. White: the true outline."
    return _carried(story, named, "propagate", "propagated", "Carried masks", caption)


def _carried_points(story: Story, named: bool) -> Section | None:
    """The same of key points."""
    caption = "A row for each video: frames from its first, whose points were given, to its last. Coloured: where the"
    caption += " features carried them. White: where they are; lines lead there."
    return _carried(story, named, "propagate-points", "propagated-points", "Carried points", caption)


def _carried(story: Story, named: bool, protocol: str, folder: str, title: str, caption: str) -> Section | None:
    steps = [str(each.origin.get("checkpoint")) for each in story.results if each.protocol == protocol]
    newest = f"_{max(steps, default='')}"
    found = sorted((story.run_dir / "eval" / folder).glob("*_00.png"))
    sheets = [path for path in found if steps and newest in path.name]
    if not sheets:
        return None
    title = f"{title} of {story.label}" if named else title
    data = {"caption": f"{sheets[0].stem}. {caption}", "source": inlined(sheets[0])}
    return Section(title=title, template="picture", data=data)


def _last_picture(story: Story, named: bool) -> Section | None:
    """The newest picture that training left."""
    found = sorted((story.run_dir / "pictures").glob("*.png"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    if not found:
        return None
    caption = found[-1].stem
    if story.setting("objective", "mask_ratio") is not None:
        caption += ". Each column is one image. Top: what the image is. Middle: the patches that the encoder sees."
        caption += " Bottom: the masked patches as the decoder fills them in, beside those it saw."
    title = f"Pictures of {story.label}" if named else "Pictures"
    return Section(title=title, template="picture", data={"caption": caption, "source": inlined(found[-1])})
