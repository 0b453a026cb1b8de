"""Whether a release is what it says: whole, unchanged, and computing what it computed when it was written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.progress_bar import working
from eyespot.data_pipeline.ranges import LARGEST_NUMBER
from eyespot.eval.release.golden import check_golden, load_encoder
from eyespot.eval.release.layout import CONFIG, EXPORTS, FORMAT, PROVENANCE, WEIGHTS, check_files, read_json, sha256
from eyespot.eval.release.towers.golden_views import check_golden_towers
from eyespot.eval.release.towers.joint_space import JointSpace
from eyespot.eval.release.towers.open_clip_files import check_open_clip
from eyespot.eval.release.towers.tower_files import check_digests, read_towers


@dataclass(kw_only=True, slots=True)
class _Provenance:
    """What is shown and used of provenance.json, of any release."""

    name: str
    license: str
    recipe: str
    step: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_NUMBER - 1)]
    checkpoint: str


def verified(folder: Path, source: str = "") -> dict[str, Any]:
    """Checks everything that can be checked of a release folder; as ``verified_towers``, of which it returns the first.

    Raises:
        UserError: the first thing that does not match.
    """
    return verified_towers(folder, source)[0]


def verified_towers(folder: Path, source: str = "") -> tuple[dict[str, Any], JointSpace | None]:
    """Checks everything that can be checked of a release folder.

    Every file against SHA256SUMS and no other file beside them; weights, mean, standard deviation, size and licence
    against provenance.json; that timm loads all of the weights; and that the features of the golden images are those
    of the day of release. The same of the second tower, where there is one. Nothing is unpickled;
    of the encoder's other forms (ONNX, torch.export) only the digests are checked, for loading one could run code.

    Args:
        folder: of the release.
        source: what to call it in errors; by default the folder.

    Returns:
        provenance.json, and both towers; None where there is one.

    Raises:
        UserError: the first thing that does not match.
    """
    source = source or f"release {folder}"
    if not folder.is_dir():
        raise UserError(f"{source}: no such folder; name a release folder")
    with working(f"verifying {source}"):
        check_files(folder, source)
        config: Any = read_json(folder / CONFIG, source)
        provenance: Any = read_json(folder / PROVENANCE, source)
        _check_provenance(folder, config, provenance, source)
        _check_exports(folder, provenance, source)
        check_digests(folder, provenance, source)
        encoder = load_encoder(folder, source)
        check_golden(folder, encoder, config, source)
        space = read_towers(folder, encoder, source)
        check_golden_towers(folder, space, source)
        check_open_clip(folder, space, config, source)
    return provenance, space


def _check_provenance(folder: Path, config: dict[str, Any], provenance: dict[str, Any], source: str) -> None:
    if provenance.get("format") != FORMAT:
        raise UserError(
            f"{source}: {PROVENANCE} has format {provenance.get('format')!r}, this eyespot reads {FORMAT!r};"
            " install the version that wrote it"
        )
    foreign_json.convert(provenance, _Provenance, f"{source}: {PROVENANCE}")
    if provenance.get("weights_sha256") != sha256(folder / WEIGHTS):
        raise UserError(f"{source}: {WEIGHTS} is of another release ({PROVENANCE} names another sha256)")
    asked = config.get("pretrained_cfg")
    if not isinstance(asked, dict):
        raise UserError(f"{source}: {CONFIG} has no pretrained_cfg; fetch the release anew")
    wanted = provenance.get("input")
    for name in ("mean", "std", "input_size", "crop_pct", "interpolation"):
        said = wanted.get(name) if isinstance(wanted, dict) else None
        if said is None or asked.get(name) != said:
            raise UserError(
                f"{source}: {name} is {asked.get(name)} in {CONFIG} but {said} in {PROVENANCE}; fetch the release anew"
            )
    if provenance.get("license") != asked.get("license"):
        raise UserError(f"{source}: the licence of {CONFIG} is not that of {PROVENANCE}; fetch the release anew")


def _check_exports(folder: Path, provenance: dict[str, Any], source: str) -> None:
    """Holds the encoder's other forms against provenance.json; what one of them computes is not looked at."""
    said = provenance.get("exports", {})
    for name in sorted(EXPORTS):
        about = said.get(name) if isinstance(said, dict) else None
        wanted = about.get("sha256") if isinstance(about, dict) else None
        if wanted != (sha256(folder / name) if (folder / name).exists() else None):
            raise UserError(f"{source}: {name} is of another release ({PROVENANCE} names another sha256, or none)")
