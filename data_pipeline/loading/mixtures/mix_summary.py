"""What a mixture holds, in lines for a person."""

from eyespot.data_pipeline.loading.mixtures.mix import is_mix
from eyespot.data_pipeline.loading.mixtures.mixed_shards import MixedShards, find_shards
from eyespot.data_pipeline.terminal import one_line


def mix_summary(text: str) -> list[str]:
    """Of each source its share of a run's samples, and which ids are its; none where ``text`` names no mixture.

    Raises:
        UserError: it cannot be understood, or a source is not there.
    """
    mixed = find_shards(text) if is_mix(text) else None
    if not isinstance(mixed, MixedShards):
        return []
    chosen = mixed.chosen(None)
    lines = [mixed.in_words(chosen)]
    for number, (source, seen) in enumerate(mixed.apart(chosen)):
        manifest, (first, end) = source.manifest, mixed.bounds[number : number + 2].tolist()
        capped = "" if seen is None or len(seen) == end - first else f"; {len(seen):,} of them are learned from"
        held_out = ", with test/" if source.split("test") is not None else ""
        lines.append(f"  {mixed.names[number]}: {source.path}{held_out}")
        lines.append(f"    ids          {first:,} to {end - 1:,}{capped}")
        lines.append(f"    classes      {len(manifest.classes):,}, {manifest.num_labeled:,} samples with a label")
    return [one_line(line) for line in lines]
