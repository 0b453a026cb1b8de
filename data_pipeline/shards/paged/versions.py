"""Which manifest of one split goes with an earlier one of another: what came later into both came together."""

from typing import Any

from eyespot.data_pipeline.shards.manifest import Manifest


def additions(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """What was added to the folder, first to last, by the digest of its plan."""
    added = manifest.packing.get("added")
    entries = added if isinstance(added, list) else []
    return {str(entry["plan"]): entry for entry in entries if isinstance(entry, dict) and "plan" in entry}


def version_beside(ours: Manifest, newest: Manifest, theirs: Manifest) -> str | None:
    """sha256 of the manifest that a split had before there was added to it what ours does not know; None = the newest.

    Args:
        ours: an earlier manifest of a split.
        newest: that split's newest.
        theirs: another split's newest.
    """
    later = additions(newest).keys() - additions(ours).keys()
    found = [entry.get("base") for plan, entry in additions(theirs).items() if plan in later]
    return found[0] if found and isinstance(found[0], str) else None
