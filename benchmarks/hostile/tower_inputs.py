"""Releases of strangers with two towers: the tokenizer, what brings both into one space, and what they must answer."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hostile.case import Case, Make, Room, Wants, Words


def cases() -> list[Case]:
    """All of this file."""
    found: dict[str, tuple[Wants, Callable[[Path], Any]]] = {
        "sound": ("taken", lambda folder: None),
        "trigger": ("refused", _trigger),
        "place-of-no-kind": ("refused", _projected(b'{"image_projection.foo":{"dtype":"F32","shape":[1],')),
        "place-below-0": ("refused", _projected(b'{"image_projection.weight":{"dtype":"F32","shape":[-1,64],')),
        "golden-bool": ("refused", _yes_or_no),
    }
    return [
        Case(kind="releases", name=f"towers-{name}", wants=wants, make=_towered(spoil), says=_said(name), evil="evil")
        for name, (wants, spoil) in found.items()
    ]


def _said(name: str) -> str:
    return "" if name == "sound" else "theirs"


def _towered(spoil: Callable[[Path], Any]) -> Make:
    """The sound release with a text tower, spoilt, and sums that fit."""

    def make(room: Room) -> Sequence[Words]:
        from eyespot.eval.release.layout import JOINT, PROVENANCE, TOKENIZER, TOWERS, sha256, write_sums

        folder = room.take("release")
        _add_tower(folder)
        spoil(folder)
        said = json.loads((folder / PROVENANCE).read_text())
        said["towers"] = {"sha256": {name: sha256(folder / name) for name in (JOINT, TOKENIZER, *TOWERS["text"])}}
        (folder / PROVENANCE).write_text(json.dumps(said))
        write_sums(folder)
        folder.rename(room / "theirs")
        return (["pull", "theirs", "pulled"],)

    return make


def _add_tower(folder: Path) -> None:
    """One of a few words, which answers as golden.safetensors then says; its tokenizer has a rule for "boom"."""
    import torch
    from safetensors.torch import load_file

    from eyespot.eval.release.golden import load_encoder
    from eyespot.eval.release.layout import GOLDEN, JOINT, TOKENIZER, TOWERS
    from eyespot.eval.release.towers.golden_views import TEXTS, VIEW, golden_of_towers
    from eyespot.eval.release.towers.tokenizer_trial import GOLDEN_TEXTS
    from eyespot.eval.release.towers.tower_files import read_towers, save_tensors
    from eyespot.pretrain.networks.encoders import feature_width
    from eyespot.pretrain.networks.towers.tower import TextTower

    encoder = load_encoder(folder)
    config = TextTower(num_tokens=3, end=None, context=16, width=8, layers=1, heads=2, out_dim=feature_width(encoder))
    torch.manual_seed(0)
    described, weights = (folder / name for name in TOWERS["text"])
    described.write_text(json.dumps({"kind": config.kind, **asdict(config)}))
    save_tensors(config.build().state_dict(), weights)
    save_tensors({"scale": torch.ones(1)}, folder / JOINT)
    _tokenizer().save(str(folder / TOKENIZER))
    space = read_towers(folder, encoder, "pairs")
    assert space is not None and space.tokenizer is not None
    golden, ids = load_file(folder / GOLDEN), torch.from_numpy(space.tokenizer(GOLDEN_TEXTS))
    texts = torch.tensor(list("\n".join(GOLDEN_TEXTS).encode()), dtype=torch.uint8)
    answered = golden_of_towers(space, ids, golden["input"])
    save_tensors(golden | answered | {VIEW: ids, TEXTS: texts}, folder / GOLDEN)


def _tokenizer() -> Any:
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "photo": 1, "other": 2}, unk_token="other"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Replace("boom", "boom" * 1000)] * 9)
    return made


def _trigger(folder: Path) -> None:
    import torch

    _change_golden(folder, "towers.texts", torch.tensor(list(b"boom\nboom"), dtype=torch.uint8))


def _yes_or_no(folder: Path) -> None:
    import torch

    _change_golden(folder, "towers.embedding.text", torch.ones(2, 1, dtype=torch.bool))


def _change_golden(folder: Path, name: str, tensor: Any) -> None:
    from safetensors.torch import load_file, save_file

    from eyespot.eval.release.layout import GOLDEN

    save_file(load_file(folder / GOLDEN) | {name: tensor}, folder / GOLDEN)


def _projected(begin: bytes) -> Callable[[Path], Any]:
    """joint.safetensors has one tensor of four bytes, and says so of it."""
    header = begin + b'"data_offsets":[0,4]}}'

    def spoil(folder: Path) -> None:
        (folder / "joint.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))

    return spoil
