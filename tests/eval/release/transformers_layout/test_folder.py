"""transformers loads an encoder without our code and computes what timm does; or it is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from released_runs import copy_of, small_run, write_release
from safetensors.torch import load_file

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.golden import load_encoder
from eyespot.eval.release.layout import GOLDEN
from eyespot.eval.release.transformers_layout.folder import write_transformers
from eyespot.pretrain.networks.encoders import EncoderConfig

FRESH = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModel
golden = load_file(sys.argv[2])
model = AutoModel.from_pretrained(sys.argv[1]).eval()
assert "eyespot" not in sys.modules and "timm" not in sys.modules
with torch.inference_mode():
    answer = model(pixel_values=golden["input"])
assert torch.equal(answer.pooler_output, golden["cls"])
print(type(model).__name__)
"""


@pytest.mark.thorough
def test_a_fresh_process_loads_it(released: Path, tmp_path: Path):
    out = write_transformers(released, tmp_path / "out")
    words = [sys.executable, "-c", FRESH, str(out), str(released / GOLDEN)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "ViTModel\n", done.stderr


def test_what_lies_in_the_folder(released: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    out = write_transformers(released, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    config, card = json.loads((out / "config.json").read_text()), (out / "README.md").read_text()
    assert config["architectures"] == ["ViTModel"] and "auto_map" not in config
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: transformers") and "timm's to the bit" in card
    assert capfd.readouterr().err == ""
    with pytest.raises(UserError, match="exists already"):
        write_transformers(released, out)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets(name: str, tmp_path: Path):
    from transformers import AutoModel

    run = small_run(tmp_path / "run", "simclr_tiny", EncoderConfig(name=name, image_size=96))
    released = write_release(tmp_path / "release", run=run)
    model = AutoModel.from_pretrained(write_transformers(released, tmp_path / "out")).eval()
    pixels, encoder = load_file(released / GOLDEN)["input"], load_encoder(released)
    with torch.inference_mode():
        found, wanted = model(pixel_values=pixels).pooler_output.flatten(1), encoder(pixels)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    "encoder",
    [
        EncoderConfig(name="test_resnet", image_size=32),
        EncoderConfig(name="resnet18", image_size=32, small_stem=True),
        EncoderConfig(name="test_vit2", image_size=64),
    ],
    ids=["a deep stem", "a small stem", "layer scale and pooling"],
)
def test_what_has_no_class(encoder: EncoderConfig, tmp_path: Path):
    run = small_run(tmp_path / "run", "simclr_tiny", encoder)
    released = write_release(tmp_path / "release", run=run)
    with pytest.raises(UserError, match=r"--transformers: it has no class .*; leave it out: AutoModel loads") as error:
        write_transformers(released, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_damaged_release(released: Path, tmp_path: Path):
    damaged = copy_of(released, tmp_path / "damaged")
    (damaged / "README.md").write_text("x")
    with pytest.raises(UserError, match="damaged or swapped"):
        write_transformers(damaged, tmp_path / "out")
