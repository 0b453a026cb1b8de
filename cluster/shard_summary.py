"""What is told of a shard folder: what it holds, and what was left out and why."""

from pathlib import Path

from eyespot.data_pipeline.shards.frames import Frames
from eyespot.data_pipeline.shards.manifest import Manifest
from eyespot.data_pipeline.terminal import one_line

MOST_REASONS, NUM_EXAMPLES = 10, 3
"""So many reasons are printed for what was left out, and so many names with each."""


def summary(folder: Path, manifest: Manifest) -> str:
    """Counts, sizes, statistics, and what was left out, a line each."""
    stats, kind = manifest.image_stats, "sample" if manifest.frames else "image"
    size = sum(shard.bytes for shard in manifest.shards)
    lines = [
        f"{folder}: {one_line(manifest.name)}, {plural(manifest.num_samples, kind)},"
        f" {plural(manifest.num_labeled, 'label')}, {plural(len(manifest.classes), 'class', 'classes')}",
        f"  tars         {len(manifest.shards)}, {size / 1e6:,.1f} MB",
        f"  height       {_sides(stats.height)}",
        f"  width        {_sides(stats.width)}",
        f"  mean, std    {_color(stats.mean)}, {_color(stats.std)} (RGB, 0..1)",
    ]
    if masks := manifest.masks:
        most = sorted(enumerate(masks.pixels), key=lambda pair: -pair[1])[:5]
        shares = ", ".join(f"class {number} {count / sum(masks.pixels):.1%}" for number, count in most if count)
        more = ", ..." if len(masks.pixels) > len(most) else ""
        lines.append(f"  masks        {masks.num_masks:,}, value {masks.ignored} ignored; of the pixels {shares}{more}")
    if frames := manifest.frames:
        lines += _frame_lines(frames)
    for extension, members in manifest.members.items():
        lines.append(f"  .{extension:<11} of {members.count:,} of {plural(manifest.num_samples, kind)}")
        lines += _left_out(members.left_out, f"{members.num_left_out:,} .{extension}")
    if manifest.converted:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in manifest.converted.items())
        lines.append(f"  converted    {kinds}")
    return "\n".join(lines + _left_out(manifest.quarantined, plural(len(manifest.quarantined), "image")))


def _left_out(found: list[dict[str, str]], what: str) -> list[str]:
    """What cannot be used, by reason."""
    if not found:
        return []
    examples: dict[str, list[str]] = {}
    for bad in found:
        examples.setdefault(bad["reason"], []).append(bad["source"])
    most = sorted(examples.items(), key=lambda pair: -len(pair[1]))
    return [
        f"  left out     {what} (named in manifest.json):",
        *_by_reason([(reason, len(names), names) for reason, names in most]),
    ]


def remarks(manifest: Manifest) -> list[str]:
    """What is no image, and what follows from the files as they are."""
    lines: list[str] = []
    if manifest.skipped:
        count = sum(one.count for one in manifest.skipped)
        lines.append(f"  skipped      {plural(count, 'file')} that are no images of the data set:")
        lines += _by_reason([(one.reason, one.count, one.examples) for one in manifest.skipped])
    return lines + [one_line(f"  note         {note}") for note in manifest.notes]


def _by_reason(found: list[tuple[str, int, list[str]]]) -> list[str]:
    """A line for each of the most frequent reasons, with the first names."""
    lines = []
    for reason, count, names in found[:MOST_REASONS]:
        more = ", ..." if count > min(len(names), NUM_EXAMPLES) else ""
        lines.append(one_line(f"    {count:>8,}  {reason}: {', '.join(names[:NUM_EXAMPLES])}{more}"))
    if rest := found[MOST_REASONS:]:
        lines.append(f"    {sum(count for _, count, _ in rest):>8,}  for {len(rest)} other reasons: see manifest.json")
    return lines


def plural(count: int, one: str, many: str | None = None) -> str:
    """1 image, 2,000 images."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _sides(sides: tuple[int, int, int]) -> str:
    smallest, median, largest = sides
    return f"{smallest} pixels" if smallest == largest else f"{smallest} to {largest} pixels, median {median}"


def _color(color: tuple[float, float, float]) -> str:
    return "(" + ", ".join(f"{channel:.3f}" for channel in color) + ")"


def _frame_lines(frames: Frames) -> list[str]:
    """What shards info says of frames."""
    fewest, median, most = frames.count
    each = f"{most} a sample" if fewest == most else f"{fewest} to {most} a sample, median {median}"
    slowest, middle, fastest = (f"{rate:g}" for rate in frames.rate)
    rate = f"{middle} per second" if slowest == fastest else f"{slowest} to {fastest} per second, median {middle}"
    rate = "rate unknown" if frames.rate[2] == 0 else rate
    lines = [f"  frames       {frames.num_frames:,}, {each}, {rate}{', with masks' if frames.masks_sha256 else ''}"]
    return lines + ([one_line(f"  cameras      {', '.join(frames.streams)}")] if len(frames.streams) > 1 else [])
