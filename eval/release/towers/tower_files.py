"""The files of a release's second tower: written from a trained objective, and read back within bounds.

tower-<kind>.json says in plain numbers and names how the tower is built, and how what it reads is made. Before anything
is built in earnest by a stranger's word, it is built without memory, and must ask for just the tensors that
tower-<kind>.safetensors has.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.augment.views import AudioView, DepthView, TextView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.tokenizer import FileTokenizer, load_tokenizer
from eyespot.eval.release.bounds import shapes_in
from eyespot.eval.release.layout import JOINT, OPEN_CLIP, TOKENIZER, TOWERS, read_json, sha256
from eyespot.eval.release.towers.joint_space import JointSpace
from eyespot.eval.release.towers.tokenizer_trial import try_tokenizer
from eyespot.pretrain.checkpoints.weight_files import check_tensors
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.towers.tower import TextTower, TimmTower, Tower
from eyespot.pretrain.objective import Objective

_KINDS: dict[str, type[TextTower | TimmTower]] = {kind.kind: kind for kind in (TextTower, TimmTower)}
_VIEWS: dict[str, type[AudioView | DepthView]] = {"sound": AudioView, "depth": DepthView}
_FIELDS = {"sound": ("seconds", "rate", "mels", "window", "hop"), "depth": ("scale",)}
"""Of those views, what a release says: how a sound or a map is seen, and not where training found it."""
_MOST_NUMBERS = 1 << 27
"""That a sound may become on its way to the tower: an hour at 16 kHz has less than half of it."""
_LAYER = re.compile(r"(?:[0-9]\.)?(?:weight|bias)")
"""Of a projection: the number of a linear layer in it, where it has several, and what it is of that layer."""


@dataclass(kw_only=True, slots=True)
class _Description:
    """tower-<kind>.json, beside the tower's own fields."""

    kind: Literal["text_transformer", "timm"]
    mends: bool = False
    """Whether texts are mended as CLIP does before tokenizer.json reads them."""
    view: dict[str, Any] = field(default_factory=dict)
    """Fields of the sound's or the depth map's view."""


def write_towers(folder: Path, objective: Objective) -> dict[str, Any]:
    """Writes the files of the objective's second tower; returns what provenance.json says of them.

    Raises:
        UserError: the method has something between tower and space that a release cannot hold.
    """
    assert objective.joint is not None
    kind, views = objective.joint[1], objective.views().views
    config, view = objective.towers()[kind], views[1]
    said: dict[str, Any] = {"kind": config.kind, **asdict(config)}
    provenance: dict[str, Any] = {"joint": list(objective.joint)}
    if isinstance(view, TextView):
        tokenizer = load_tokenizer(view.tokenizer, view.context)
        said["mends"] = tokenizer.mends
        (folder / TOKENIZER).write_text(tokenizer.as_json(), encoding="utf-8")
        provenance["tokenizer"] = {"name": Path(view.tokenizer).name, "sha256": tokenizer.digest}
    elif isinstance(view, AudioView | DepthView):
        said["view"] = {name: getattr(view, name) for name in _FIELDS[kind]}
    described, weights = (folder / name for name in TOWERS[kind])
    described.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    save_tensors(objective.get_submodule(kind).state_dict(), weights)
    save_tensors(_joint_tensors(objective), folder / JOINT)
    return provenance | {"sha256": _digests(folder)}


def check_digests(folder: Path, provenance: dict[str, Any], source: str) -> None:
    """Holds the towers' files against provenance.json.

    Raises:
        UserError: they are of another release, or there are more or fewer.
    """
    said: Any = provenance.get("towers")
    named: Any = said.get("sha256") if isinstance(said, dict) else None
    wanted, found = named if isinstance(named, dict) else {}, _digests(folder)
    if odd := sorted(name for name in wanted | found if wanted.get(name) != found.get(name)):
        raise UserError(f"{source}: {odd[0][:100]} is of another release (provenance.json names other towers)")


def read_towers(folder: Path, encoder: nn.Module, source: str) -> JointSpace | None:
    """Both towers of a release and their space; None where it has one tower.

    Args:
        folder: of the release.
        encoder: its image tower.
        source: what to call it in errors.

    Raises:
        UserError: files are lacking or too many, make no sense or do not fit each other.
    """
    kind = _kind(folder, source)
    if kind is None:
        return None
    named, weights = (folder / name for name in TOWERS[kind])
    values: Any = read_json(named, source)
    where = f"{source}: {named.name}"
    described = foreign_json.convert(values, _Description, where)
    config: Tower = foreign_json.convert(values, _KINDS[described.kind], where)
    if (kind == "text") != isinstance(config, TextTower):
        raise UserError(f"{where}: kind {described.kind} is no tower for {kind}; fetch the release anew")
    tower = _tower(config, weights, source, where)
    extras: dict[str, Any] = {}
    if isinstance(config, TextTower):
        try_tokenizer(folder / TOKENIZER, config.context, source, mends=described.mends)
        extras["tokenizer"] = FileTokenizer(folder / TOKENIZER, config.context, mends=described.mends)
    else:
        extras["view"] = _view(kind, described.view, config, where)
    widths = {"image": feature_width(encoder), kind: config.out_width(tower)}
    projections, numbers = _joint(folder, widths, source)
    space = JointSpace(encoder, kind, config, tower, projections, **numbers, **extras)
    return space.eval().requires_grad_(False)


def load_tensors(path: Path, source: str) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:  # KeyError: of a type that torch lacks
        raise UserError(f"{source}: {path.name} cannot be read ({_brief(error)}); fetch the release anew") from error


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes them as safetensors."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


def _joint_tensors(objective: Objective) -> dict[str, Tensor]:
    assert objective.joint is not None
    tensors: dict[str, Tensor] = {}
    for kind in objective.joint:
        name = f"{kind}_projection"
        projection = getattr(objective, name, None)
        if projection is None:
            continue
        layers = list(projection) if isinstance(projection, nn.Sequential) else [projection]
        kinds = [nn.Linear if place % 2 == 0 else nn.ReLU for place in range(len(layers))]
        if len(layers) % 2 == 0 or any(type(layer) is not wanted for layer, wanted in zip(layers, kinds, strict=True)):
            raise UserError(
                f"release: {type(objective).__name__}.{name} is not made of linear layers with ReLU between them, which"
                " is what a release can hold"
            )
        tensors |= {f"{name}.{part}": tensor for part, tensor in projection.state_dict().items()}
    scale: Any = getattr(objective, "scale", None)
    bias: Any = getattr(objective, "bias", None)
    if callable(scale):
        tensors["scale"] = cast(Tensor, scale())
    if isinstance(bias, Tensor):
        tensors["bias"] = bias
    return tensors


def _digests(folder: Path) -> dict[str, str]:
    names = [JOINT, TOKENIZER, *(name for pair in TOWERS.values() for name in pair)]
    return {name: sha256(folder / name) for name in sorted(names) if (folder / name).exists()}


def _kind(folder: Path, source: str) -> str | None:
    """Of the second tower; None where there is none and nothing of one."""
    there = {path.name for path in folder.iterdir()}
    kinds = [kind for kind, names in TOWERS.items() if there & set(names)]
    if len(kinds) > 1:
        raise UserError(
            f"{source}: has towers for {' and '.join(kinds)}, and no release has more than one beside images"
        )
    wanted = {*TOWERS[kinds[0]], JOINT, *((TOKENIZER,) if kinds == ["text"] else ())} if kinds else set[str]()
    allowed = wanted | (set(OPEN_CLIP) if kinds == ["text"] else set())
    beside = {JOINT, TOKENIZER, *OPEN_CLIP} & there
    if odd := sorted(beside - allowed):
        raise UserError(f"{source}: {odd[0]} is there without the tower that it belongs to; fetch the release anew")
    if lacking := sorted(wanted - there):
        raise UserError(f"{source}: has a tower for {kinds[0]} and no {lacking[0]}; fetch the release anew")
    if len(set(OPEN_CLIP) & there) == 1:
        raise UserError(f"{source}: has one of {' and '.join(OPEN_CLIP)} only; fetch the release anew")
    return kinds[0] if kinds else None


def _tower(config: Tower, weights: Path, source: str, where: str) -> nn.Module:
    """Built in earnest once its tensors are known to be those of the file."""
    shapes = shapes_in(weights, source)
    if isinstance(config, TextTower) and config.layers > len(shapes):
        raise UserError(f"{where}: layers {config.layers:,}: {weights.name} has {len(shapes):,} tensors")
    try:
        with torch.device("meta"):
            asked = {name: list(tensor.shape) for name, tensor in config.build().state_dict().items()}
    except Exception as error:  # whatever a stranger's numbers lead to
        raise UserError(f"{where}: asks for what cannot be built ({_brief(error)}); fetch the release anew") from error
    for name in [*asked, *shapes]:
        if asked.get(name) != shapes.get(name):
            wanted, there = (held.get(name, "missing") for held in (asked, shapes))
            raise UserError(f"{where}: asks for {name[:100]} of {wanted}, in {weights.name} it is {there!s:.100}")
    tensors, tower = load_tensors(weights, source), config.build()
    check_tensors(tower.state_dict(), tensors, f"{source}: {weights.name}", "fetch the release anew")
    tower.load_state_dict(tensors)
    return tower


def _view(kind: str, fields: dict[str, Any], config: TimmTower, where: str) -> AudioView | DepthView:
    if odd := sorted(fields.keys() - set(_FIELDS[kind])):
        raise UserError(f"{where}: view: {odd[0][:100]}: no release has it; fetch the release anew")
    given = fields | ({"of": 0} if kind == "depth" else {})
    try:
        view = foreign_json.convert(given, _VIEWS[kind], f"{where}: view")
    except foreign_json.ForeignJsonError:
        raise
    except UserError as error:
        raise UserError(f"{where}: view: {error}") from error
    if isinstance(view, AudioView) and view.shape(()) != config.shape:
        raise UserError(f"{where}: its view makes spectrograms of {view.shape(())}, its tower sees {config.shape}")
    if isinstance(view, AudioView) and (asked := _numbers(view)) > _MOST_NUMBERS:
        raise UserError(f"{where}: view: a sound becomes {asked:,} numbers there, of at most {_MOST_NUMBERS:,}")
    return view


def _numbers(view: AudioView) -> int:
    """Of the wave, its spectrum, and the triangles that this is summed in."""
    _, mels, columns = view.shape(())
    return view.num_samples + view.window + (view.window // 2 + 1) * (columns + mels)


def _joint(folder: Path, widths: dict[str, int], source: str) -> tuple[nn.ModuleDict, dict[str, Tensor]]:
    """The projections, and "scale" and "bias" where they are there."""
    tensors, projections = load_tensors(folder / JOINT, source), nn.ModuleDict()
    for kind, width in widths.items():
        begin = f"{kind}_projection."
        parts = {name.removeprefix(begin): tensor for name, tensor in tensors.items() if name.startswith(begin)}
        if parts:
            projections[kind] = _projection(parts, width, f"{source}: {JOINT}: {begin}")
    ends = {kind: _out_width(projections[kind]) if kind in projections else width for kind, width in widths.items()}
    if len(set(ends.values())) > 1:
        ended = " and ".join(f"{kind} with {width:,}" for kind, width in ends.items())
        raise UserError(f"{source}: {JOINT}: {ended} channels do not end in one space; fetch the release anew")
    wanted = {f"{k}_projection.{name}": t for k, p in projections.items() for name, t in p.state_dict().items()}
    numbers = {name: torch.zeros(1) for name in ("scale", "bias") if name in tensors}
    check_tensors(wanted | numbers, tensors, f"{source}: {JOINT}", "fetch the release anew")
    for kind, projection in projections.items():
        begin = f"{kind}_projection."
        projection.load_state_dict({n.removeprefix(begin): t for n, t in tensors.items() if n.startswith(begin)})
    return projections, {name: tensors[name] for name in numbers}


def _projection(parts: dict[str, Tensor], width: int, where: str) -> nn.Module:
    """Linear layers whose shapes follow each other from ``width`` on, with ReLU between them."""
    if odd := sorted(name for name in parts if _LAYER.fullmatch(name) is None):
        raise UserError(f"{where}{odd[0][:100]}: no release has it; fetch the release anew")
    layers: list[nn.Module] = []
    places = sorted({name.rpartition(".")[0] for name in parts})
    for place in places:  # "" of a layer alone
        name = f"{place}.weight" if place else "weight"
        weight = parts.get(name)
        shape = None if weight is None else list(weight.shape)
        if shape is None or len(shape) != 2 or not shape[0] or shape[1] != width or int(place or 0) != len(layers):
            raise UserError(f"{where}{name} is {shape!s:.100} there, and follows on {width:,} channels; fetch it anew")
        width = shape[0]
        layers += [nn.Linear(shape[1], width, bias=name.replace("weight", "bias") in parts), nn.ReLU()]
    return layers[0] if places == [""] else nn.Sequential(*layers[:-1])


def _out_width(projection: nn.Module) -> int:
    last = projection[-1] if isinstance(projection, nn.Sequential) else projection
    assert isinstance(last, nn.Linear)
    return last.out_features


def _brief(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
