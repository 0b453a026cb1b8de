"""Towers that lie about themselves are refused in a line before anything is built by what they say."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from released_runs import change_json, copy_of, two_towered_run
from safetensors.torch import load, load_file, save_file
from torch import nn

from eyespot.data_pipeline.augment.views import AudioView, CenterView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.layout import JOINT, PROVENANCE, TOKENIZER, TOWERS, sha256, write_sums
from eyespot.eval.release.towers.golden_views import VIEW, golden_view
from eyespot.eval.release.towers.tower_files import read_towers, write_towers
from eyespot.eval.release.verify import verified, verified_towers
from eyespot.pretrain.families.two_towers import TwoEncoders, TwoTowers, make_tower
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.losses.contrastive import clip_loss
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder

Damage = Callable[[Path, Path], object]
NAMED, WEIGHTS = TOWERS["text"]


def says(**values: object) -> Damage:
    """tower-text.json with other values."""

    def damage(folder: Path, other: Path) -> None:
        for name, value in values.items():
            change_json(folder / NAMED, name, value=value)

    return damage


def with_tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path, other: Path) -> None:
        tensors = load((folder / name).read_bytes())
        change(tensors)
        save_file(tensors, folder / name)

    return damage


def shaped(shape: str) -> Damage:
    """The header of the image's projection says another shape."""

    def damage(folder: Path, other: Path) -> None:
        content = (folder / JOINT).read_bytes()
        begin = 8 + int.from_bytes(content[:8], "little")
        header = content[8:begin].decode().rstrip().replace("[6,64]", shape).encode()
        assert shape.encode() in header
        (folder / JOINT).write_bytes(len(header).to_bytes(8, "little") + header + content[begin:])

    return damage


def text(name: str, content: str) -> Damage:
    return lambda folder, other: (folder / name).write_text(content)


def taken(*names: str) -> Damage:
    """From the other release."""
    return lambda folder, other: [(folder / name).write_bytes((other / name).read_bytes()) for name in names]


def lost(*names: str) -> Damage:
    return lambda folder, other: [(folder / name).unlink() for name in names]


def other_texts(folder: Path, other: Path) -> None:
    """A tokenizer that exchanges two words."""
    content = (folder / TOKENIZER).read_text()
    (folder / TOKENIZER).write_text(content.replace('"of": 9', '"of": 5').replace('"dog": 5', '"dog": 9'))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "wider": (says(width=16), r"asks for positional_embedding of .16, 16., in tower-text.safetensors it is .16, 8."),
    "wide without end": (says(width=1 << 24), "asks for positional_embedding of"),
    "more tokens than memory": (says(num_tokens=1 << 24), "asks for token_embedding.weight of"),
    "wider than any": (says(width=1 << 40), "tower-text.json: width: expected"),
    "deep": (says(layers=1 << 20), "tower-text.json: layers 1,048,576: tower-text.safetensors has"),
    "one layer more": (says(layers=3), "asks for transformer.resblocks.2.* it is missing"),
    "one layer less": (says(layers=1), "asks for transformer.resblocks.1.* of missing"),
    "no layers": (says(layers=0), "layers: expected"),
    "heads that do not divide": (says(heads=3), "width 8 is no multiple of heads 3"),
    "end in words": (says(end="last"), "tower-text.json: end: expected"),
    "another end": (says(end=3), "golden text embeddings are off"),
    "another kind": (says(kind="timm", name="resnet18", shape=[1, 8, 8]), "kind timm is no tower for text"),
    "code": (says(kind="os.system"), "tower-text.json: kind: invalid"),
    "not JSON": (text(NAMED, "{"), "tower-text.json: not JSON"),
    "deep JSON": (text(NAMED, "[" * 100_000), "tower-text.json: nested too deep"),
    "no tokenizer": (text(TOKENIZER, "{"), "tokenizer.json is no tokenizer.json"),
    "tokenizer of nothing": (text(TOKENIZER, "{}"), "tokenizer.json is no tokenizer.json"),
    "other words": (other_texts, "tokenizer.json makes other tokens of the golden captions"),
    "weights of another": (taken(WEIGHTS), "golden text embeddings are off"),
    "space of another": (taken(JOINT), "golden image embeddings are off"),
    "not finite": (with_tensors(WEIGHTS, lambda t: t["ln_final.bias"].fill_(float("nan"))), "are not finite"),
    "turned": (
        with_tensors(JOINT, lambda t: t.update({"image_projection.weight": torch.zeros(64, 6)})),
        r"image_projection.weight is \[64, 6\] there, and follows on 64 channels",
    ),
    "another space": (
        with_tensors(JOINT, lambda t: t.update({"image_projection.weight": torch.zeros(5, 64)})),
        "image with 5 and text with 6 channels do not end in one space",
    ),
    "a place of no kind": (
        with_tensors(JOINT, lambda t: t.update({"image_projection.foo": t.pop("image_projection.weight")})),
        "joint.safetensors: image_projection.foo: no release has it",
    ),
    "one place more": (
        with_tensors(JOINT, lambda t: t.update({"image_projection.2.bias": torch.zeros(6)})),
        "image_projection.2.weight is None there, and follows on 6 channels",
    ),
    "a space of nothing": (
        with_tensors(JOINT, lambda t: t.update({"image_projection.weight": torch.zeros(0, 64)})),
        r"image_projection.weight is \[0, 64\] there",
    ),
    "less than nothing": (shaped("[-6,64]"), "joint.safetensors cannot be read"),
    "a letter long": (shaped('["a",64]'), "joint.safetensors cannot be read"),
    "no space": (with_tensors(JOINT, lambda t: t.pop("image_projection.weight")), "do not end in one space"),
    "a number more": (with_tensors(JOINT, lambda t: t.update({"exec": torch.zeros(1)})), "exec is .* there"),
    "two scales": (with_tensors(JOINT, lambda t: t.update({"scale": torch.zeros(2)})), "scale is .2,. there"),
    "pickle": (lambda folder, other: torch.save({}, folder / JOINT), "joint.safetensors is a pickle"),
    "no header": (lambda folder, other: (folder / WEIGHTS).write_bytes(b""), "tower-text.safetensors cannot be read"),
    "no tower": (lost(NAMED, WEIGHTS), "joint.safetensors is there without the tower"),
    "half a tower": (lost(NAMED), "has a tower for text and no tower-text.json"),
    "nothing of it": (lost(NAMED, WEIGHTS, JOINT, TOKENIZER), "belongs to no tower"),
    "two towers": (text(TOWERS["sound"][0], "{}"), "has towers for text and sound"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_refused_in_one_line(two_towered: Path, other_towers: Path, tmp_path: Path, what: str):
    """Also where SHA256SUMS and provenance.json were made to fit."""
    damage, words = DAMAGES[what]
    folder, begin = copy_of(two_towered, tmp_path / "copy"), time.process_time()
    damage(folder, other_towers)
    names = [name for name in (JOINT, TOKENIZER, *TOWERS["text"], *TOWERS["sound"]) if (folder / name).exists()]
    change_json(folder / PROVENANCE, "towers", "sha256", value={name: sha256(folder / name) for name in names})
    with pytest.raises(UserError, match=words) as error:
        verified(folder)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"release {folder}: ")
    assert len(str(error.value)) < 800 and time.process_time() - begin < 20


def test_provenance_names_the_towers(two_towered: Path, other_towers: Path, released: Path, tmp_path: Path):
    said = json.loads((two_towered / PROVENANCE).read_text())["towers"]
    assert said["joint"] == ["image", "text"] and said["tokenizer"]["sha256"] == sha256(two_towered / TOKENIZER)
    folder = copy_of(two_towered, tmp_path / "copy")
    taken(WEIGHTS)(folder, other_towers)
    write_sums(folder)
    with pytest.raises(UserError, match=r"tower-text.safetensors is of another release"):
        verified(folder)
    change_json(folder / PROVENANCE, "towers", value=7)
    with pytest.raises(UserError, match="is of another release"):
        verified(folder)
    assert "towers" not in json.loads((released / PROVENANCE).read_text())


def test_layers_with_relu_between_and_others(two_towered: Path, tmp_path: Path):
    """A projection of two layers is written and read; one with something else in it is no release's."""
    objective = fresh_objective(two_towered_run(tmp_path / "run")).eval()
    encoder, images = objective.encoder, torch.randn(2, 3, 16, 16)
    objective.image_projection = nn.Sequential(nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 6, bias=False))
    objective.bias = nn.Parameter(torch.tensor([-3.0]))
    said = write_towers(tmp_path, objective)
    assert sorted(said["sha256"]) == sorted([JOINT, TOKENIZER, *TOWERS["text"]])
    space = read_towers(tmp_path, encoder, "it")
    assert space is not None and space.bias is not None and float(space.bias) == -3
    with torch.inference_mode():
        assert torch.equal(space.embed_images(images), objective.embed_joint("image", images))
    assert load_file(tmp_path / JOINT).keys() >= {"image_projection.0.bias", "image_projection.2.weight"}
    objective.image_projection = nn.Sequential(nn.Linear(64, 9), nn.GELU(), nn.Linear(9, 6))
    with pytest.raises(UserError, match=r"CLIP.image_projection is not made of linear layers with ReLU between"):
        write_towers(tmp_path, objective)


class Heard(TwoEncoders):
    """Images and their sounds, which find each other."""

    joint = ("image", "sound")

    @dataclass(kw_only=True, slots=True)
    class Config(TwoTowers.Config):
        name: str
        sound: AudioView

        def build(self, encoder: nn.Module, image_size: int) -> "Heard":
            tower = make_tower(self.name, self.sound.shape(()), "objective.name")
            return Heard(self, encoder, image_size, tower, 0.0)

    def views(self) -> ViewSpec:
        size = self.image_size
        return ViewSpec(views=(CenterView(resize=size, size=size), self.config.sound))

    def compare(self, rows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": clip_loss(rows["image"], rows["sound"], rows["scale"][0], ids=rows["ids"])}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_sound_tower(tmp_path: Path, name: str):
    """Whatever the spectrogram's shape; its file says how sounds become one."""
    torch.manual_seed(0)
    view = AudioView(seconds=0.31, rate=8000, mels=48)
    encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=32))
    heard = Heard.Config(name=name, sound=view, out_dim=6).build(encoder, 32).eval()
    write_towers(tmp_path, heard)
    named = json.loads((tmp_path / TOWERS["sound"][0]).read_text())
    assert (named["kind"], named["name"], named["shape"]) == ("timm", name, [1, 48, 16])
    space = read_towers(tmp_path, heard.encoder, "it")
    assert space is not None and space.view == view and space.joint == ("image", "sound")
    seen = golden_view(heard.views().views)[VIEW]
    with torch.inference_mode():
        assert torch.equal(space.embed_joint("sound", seen), heard.embed_joint("sound", seen))
    assert space.scale is not None and float(space.scale) == 1.0
    for keys, value, words in (
        (("name",), "vit_large_patch16_224", "asks for .* of .*, in tower-sound.safetensors it is"),
        (("name",), "../x", "asks for what cannot be built .*timm has no such architecture"),
        (("shape",), [1, 48, 1 << 40], "tower-sound.json: shape"),
        (("shape",), [3, 48, 16], "asks for .* of|its view makes spectrograms of"),
        (("shape",), [1, 64, 16], "asks for .* of|its view makes spectrograms of"),
        (("view", "rate"), 3, "tower-sound.json: view: rate 3: must lie"),
        (("view", "mels"), "many", "tower-sound.json: view: mels: expected"),
        (("view",), [], "tower-sound.json: view: expected"),
        (("view", "partner"), True, "tower-sound.json: view: partner: no release has it"),
        (("view", "place"), "center", "tower-sound.json: view: place: no release has it"),
        (("view", "of"), 3, "tower-sound.json: view: of: no release has it"),
        (("view", "window"), 1 << 36, "view: (a sound becomes .* numbers there, of at most|window .*: must)"),
        (("mends",), 7, "tower-sound.json: mends: expected"),
    ):
        change_json(tmp_path / TOWERS["sound"][0], *keys, value=value)
        with pytest.raises(UserError, match=words) as error:
            read_towers(tmp_path, heard.encoder, "it")
        assert "\n" not in str(error.value)
        (tmp_path / TOWERS["sound"][0]).write_text(json.dumps(named))


def test_one_tower(released: Path):
    assert verified_towers(released)[1] is None
