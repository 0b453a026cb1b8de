"""The encoder as a torch.export program: the same bits with torch alone, and never loaded by who verifies it."""

import json
import pickle
import subprocess
import zipfile
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from released_runs import bare_python, change_json, copy_of, write_release
from safetensors.torch import load_file

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.exports.torch_export import NamedFeatures, export_pt2
from eyespot.eval.release.golden import golden_of, load_encoder
from eyespot.eval.release.layout import GOLDEN, PROVENANCE, PT2, read_json, sha256, write_sums
from eyespot.eval.release.verify import verified
from eyespot.pretrain.networks.encoders import EncoderConfig, encode, make_encoder

_ALONE = """\
import sys, torch
program = torch.export.load(sys.argv[1] + "/encoder.pt2").module()
images = torch.load(sys.argv[2])
with torch.no_grad():
    torch.save(dict(program(images)), sys.argv[3])
assert not {"timm", "eyespot", "safetensors"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("exports") / "vit", pt2=True)


def test_the_same_bits(released: Path):
    program = torch.export.load(released / PT2).module()
    encoder = load_encoder(released)
    for count in (1, 3, 8):
        images = torch.randn(count, 3, 16, 16)
        with torch.no_grad():
            wanted, found = encode(encoder, images), program(images)
        assert list(found) == ["cls_features", "mean_features"] == [f"{kind}_features" for kind in wanted]
        assert all(torch.equal(found[f"{kind}_features"], rows) for kind, rows in wanted.items())
    said = read_json(released / PROVENANCE, "")["exports"][PT2]
    assert said == {"torch": torch.__version__, "any_size": False, "far": 0.0, "sha256": sha256(released / PT2)}
    card = (released / "README.md").read_text()
    assert f"## {PT2}" in card and f"written by torch {torch.__version__}" in card and "to the last bit" in card


def test_it_tells_nothing_of_this_machine(released: Path):
    with zipfile.ZipFile(released / PT2) as archive:
        for name in archive.namelist():
            held = archive.read(name)
            assert not any(word in held for word in (str(Path(__file__).parents[4]).encode(), b"site-packages", b".py"))
        said = json.loads(archive.read("encoder/data/weights/model_weights_config.json"))
    assert not any(weight["use_pickle"] for weight in said["config"].values())


class Marker:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_who_verifies_runs_no_code(released: Path, tmp_path: Path):
    """torch.export.load runs what a stranger's file holds; verifying one does not."""
    folder, mark = copy_of(released, tmp_path / "a"), tmp_path / "mark"
    with zipfile.ZipFile(released / PT2) as old, zipfile.ZipFile(folder / PT2, "w") as new:
        for name in old.namelist():
            held = old.read(name)
            if name.endswith("/weight_0"):
                continue
            if name.endswith("model_weights_config.json"):
                said = json.loads(held)
                first = next(weight for weight in said["config"].values() if weight["path_name"] == "weight_0")
                first["use_pickle"] = True
                held = json.dumps(said).encode()
            new.writestr(name, held)
        new.writestr("encoder/data/weights/weight_0", pickle.dumps(Marker(mark)))
    with pytest.raises(UserError, match=r"encoder\.pt2 is damaged or swapped"):
        verified(folder)
    write_sums(folder)
    with pytest.raises(UserError, match=r"encoder\.pt2 is of another release"):
        verified(folder)
    change_json(folder / PROVENANCE, "exports", PT2, "sha256", value=sha256(folder / PT2))
    verified(folder)
    assert not mark.exists()
    with pytest.raises(Exception):  # noqa: B017 - whatever torch makes of a path in place of a weight
        torch.export.load(folder / PT2)
    assert mark.exists()


def test_what_cannot_be_exported(tmp_path: Path):
    class Odd(torch.nn.Module):
        pretrained_cfg: ClassVar = {"fixed_input_size": True}

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            return images if float(images.sum()) > 0 else -images

    golden = {"input": torch.rand(2, 3, 8, 8)}
    with pytest.raises(UserError, match=r"--pt2: torch .* cannot export it \(.*\); leave --pt2 out"):
        export_pt2(Odd(), golden, tmp_path / PT2)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "asked",
    [
        EncoderConfig(name="resnet10t", image_size=32, small_stem=True),
        EncoderConfig(name="resnet50", image_size=64),
        EncoderConfig(name="convnext_atto", image_size=64),
        EncoderConfig(name="vit_tiny_patch16_224", image_size=64, patch_size=8),
        EncoderConfig(name="vit_small_patch14_reg4_dinov2", image_size=56),
        EncoderConfig(name="vit_base_patch32_clip_224", image_size=64),
        EncoderConfig(name="eva02_tiny_patch14_224", image_size=56),
    ],
    ids=lambda asked: asked.name,
)
def test_encoders_of_many_kinds(asked: EncoderConfig, tmp_path: Path):
    encoder = make_encoder(asked).eval().requires_grad_(False)
    size = asked.image_size
    config = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, size, size]}
    _, said = export_pt2(encoder, golden_of(encoder, {"pretrained_cfg": config}), tmp_path / PT2)
    convolutional = not encoder.pretrained_cfg["fixed_input_size"]
    assert (said["far"], said["any_size"]) == (0, convolutional)
    program = torch.export.load(tmp_path / PT2).module()
    for shape in [(5, 3, size, size), *([(3, 3, size + 16, size + 8)] * convolutional)]:
        images = torch.randn(shape)
        with torch.no_grad():
            wanted, found = NamedFeatures(encoder)(images), program(images)
        assert all(torch.equal(found[kind], rows) for kind, rows in wanted.items())


@pytest.mark.thorough
def test_torch_alone_loads_it(released: Path, tmp_path: Path):
    images = load_file(released / GOLDEN)["input"]
    torch.save(images, tmp_path / "images.pt")
    python = bare_python(tmp_path / "bare", "torch", "numpy")
    words = [python, "-c", _ALONE, released, tmp_path / "images.pt", tmp_path / "found.pt"]
    done = subprocess.run(words, cwd=tmp_path, env={"PATH": "/usr/bin"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, golden = torch.load(tmp_path / "found.pt"), load_file(released / GOLDEN)
    assert torch.equal(found["cls_features"], golden["cls"])
