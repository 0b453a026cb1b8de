"""What a release is: the trained encoder to the last bit, by timm alone, in a process that knows no eyespot."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from released_runs import CHECKPOINT, MEAN, STD, bare_python, content, small_run, write_release, write_run
from safetensors.torch import load, load_file

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.verify import verified
from eyespot.eval.release.write import release, spdx
from eyespot.pretrain.checkpoints.reader import read_encoder
from eyespot.pretrain.networks.encoders import EncoderConfig, encode, make_encoder

BARE = """
import importlib.util, sys
assert importlib.util.find_spec("eyespot") is None and importlib.util.find_spec("mlflow") is None
import torch
from PIL import Image
from safetensors.torch import load_file

golden = load_file("FOLDER/golden.safetensors")
image = Image.fromarray(golden["images"][0].permute(1, 2, 0).numpy())
with torch.inference_mode():
{card}
    tokens = encoder.forward_features(golden["input"])
    assert torch.equal(tokens[:, 0], golden["cls"])
    assert torch.equal(tokens[:, encoder.num_prefix_tokens:].mean(1), golden["mean"])
    assert torch.equal(encoder(golden["input"]), golden["cls"])
assert torch.allclose(transform(image), golden["input"][0], rtol=0, atol=1e-6)
assert torch.allclose(features, golden["cls"][:1], rtol=0, atol=1e-5)
classifier = timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=7)
assert classifier(golden["input"]).shape == (2, 7)
assert torch.equal(classifier.blocks[0].attn.qkv.weight, encoder.blocks[0].attn.qkv.weight)
print("round trip")
"""


def code_of(folder: Path) -> str:
    """The Python that the model card shows."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text().partition("## Numbers")[0], re.S)
    return code


def test_round_trip_with_timm_and_safetensors_alone(released: Path, tmp_path: Path):
    card = "".join(f"    {line}\n" for line in code_of(released).splitlines())
    script = BARE.replace("{card}", card).replace("FOLDER", str(released))
    python = bare_python(tmp_path / "bare", "timm", "safetensors")
    done = subprocess.run(
        [python, "-I", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "round trip"), done.stderr


def test_the_released_encoder_is_the_checkpoints_to_the_bit(released: Path):
    run_dir = released.with_name("first-run")
    run = small_run(run_dir)
    trained = make_encoder(run.encoder)
    trained.load_state_dict(read_encoder(run_dir / "checkpoints" / CHECKPOINT))
    encoder = timm.create_model(f"local-dir:{released}", pretrained=True)
    assert encoder.state_dict().keys() == trained.state_dict().keys()
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in encoder.state_dict().items())
    images = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        ours, theirs = (encode(one.eval(), images) for one in (trained, encoder))
    assert all(torch.equal(theirs[kind], ours[kind]) for kind in ("cls", "mean"))
    said = timm.data.resolve_model_data_config(encoder)
    assert (list(said["mean"]), list(said["std"]), said["input_size"], said["crop_pct"]) == (
        MEAN,
        STD,
        (3, 16, 16),
        1.0,
    )
    assert encoder.pretrained_cfg["license"] == "apache-2.0" and encoder.num_classes == 0


def test_everybody_may_read_it(released: Path):
    assert {path.stat().st_mode & 0o777 for path in released.iterdir()} == {0o644}
    assert released.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in released.parent.iterdir() if path.name.endswith(".tmp")] == []
    checked = subprocess.run(["sha256sum", "--strict", "--check", "SHA256SUMS"], cwd=released, capture_output=True)
    assert checked.returncode == 0


def test_a_resnet_and_large_images(tmp_path: Path):
    encoder = EncoderConfig(name="resnet10t", image_size=72)
    folder = write_release(tmp_path / "cnn", run=small_run(tmp_path / "cnn-run", "simclr_tiny", encoder), name="cnn")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    golden = load_file(folder / "golden.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(golden["input"]), golden["mean"])
    assert timm.data.resolve_model_data_config(loaded)["crop_pct"] == 0.875


@pytest.mark.parametrize("name", ["test_resnet", "resnet10t"])
def test_a_small_stem_is_loaded_as_the_card_says_and_not_otherwise(tmp_path: Path, name: str):
    """timm has no name for it and must refuse the folder: in a deep stem all tensors would fit, but not the stride."""
    run = small_run(tmp_path / "a-run", "simclr_tiny", EncoderConfig(name=name, image_size=32, small_stem=True))
    folder = write_release(tmp_path / "a", run=run)
    assert verified(folder)["architecture"] == f"{name}_small_stem"
    with pytest.raises(RuntimeError, match=f"Unknown model .{name}_small_stem"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    golden = load_file(folder / "golden.safetensors")
    given: dict = {"image": _picture(golden)}
    with torch.no_grad():
        exec(code_of(folder).replace("FOLDER", str(folder)), given)
        assert torch.equal(given["encoder"](golden["input"]), golden["mean"])
    assert torch.allclose(given["features"], golden["mean"][:1], rtol=1e-4, atol=1e-5)


def _picture(golden: dict) -> object:
    from PIL import Image

    return Image.fromarray(golden["images"][0].permute(1, 2, 0).numpy())


REFUSED = {
    "licence": ({}, {"license": "as you like"}, "--license 'as you like': no SPDX expression"),
    "no licence": ({}, {"license": ""}, "--license '': no SPDX expression"),
    "name": ({}, {"name": "a/b"}, "--name 'a/b': must consist of"),
    "checkpoint": ({}, {"step": "step-9"}, f"--checkpoint step-9: run .* has {CHECKPOINT}"),
    "dirty": ({"git_diff_sha256": "ab"}, {}, "uncommitted changes, .* or say --allow-dirty"),
    "not judged": ({"judged": False}, {}, f"{CHECKPOINT} has no evaluation; judge it first: eyespot eval linear"),
    "no mean": ({"normalization": None}, {}, "no field normalization"),
    "no decoder": ({"recipe": "simclr_tiny"}, {"decoder": True}, "--decoder: SimCLR has no decoder"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_released(tmp_path: Path, what: str):
    record, options, words = REFUSED[what]
    run = small_run(tmp_path / "run", record.get("recipe", "mae_tiny"))
    write_run(tmp_path / "run", run=run, **record)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=words) as error:
        release(tmp_path / "run", tmp_path / "out", **{"license": "mit", **options})
    assert "\n" not in str(error.value) and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("method", "name"), [("split_brain", "split_test_vit"), ("pixel_gpt", "test_pixel_transformer")]
)
def test_what_timm_alone_cannot_build(tmp_path: Path, method: str, name: str):
    run = small_run(tmp_path / "run", f"{method}_tiny", EncoderConfig(name=name, image_size=16, patch_size=4))
    run_dir = write_run(tmp_path / "run", run=run)
    with pytest.raises(UserError, match=f"encoder.name '{name}': is eyespot's own, and nobody") as error:
        release(run_dir, tmp_path / "out", license="mit")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_checkpoint_that_does_not_fit(tmp_path: Path):
    """One tensor less, and one of another shape."""
    run_dir = write_run(tmp_path / "run")
    said = json.loads((run_dir / "run.json").read_text())
    for field, value, words in (
        ("patch_size", 8, "there and .* in the encoder; it does not fit encoder"),
        ("name", "test_vit2", "does not fit encoder|written by another run"),
    ):
        wrong = {**said, "run": {**said["run"], "encoder": {**said["run"]["encoder"], field: value}}}
        (run_dir / "run.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=words):
            release(run_dir, tmp_path / "out", license="mit")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_stays_as_it_is(released: Path):
    before = content(released)
    with pytest.raises(UserError, match="exists already; a release is never changed"):
        release(released.with_name("first-run"), released, license="mit")
    assert content(released) == before


def test_allowed_all_the_same_and_then_the_card_says_so(tmp_path: Path):
    run_dir = write_run(tmp_path / "run", judged=False, git_diff_sha256="ab")
    folder = release(run_dir, tmp_path / "out", license="MIT", allow_dirty=True, evaluated=False, name="night")
    card = (folder / "README.md").read_text()
    for said in ("# night", "released without an evaluation", "c0ffee with uncommitted changes", "license: mit"):
        assert said in card
    assert verified(folder)["code"]["dirty"] is True


def test_a_secret_stays_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_TOKEN", "hunter2-hunter2")
    run_dir = write_run(tmp_path / "run", argv=["--uri", "http://me:pass@host", "hunter2-hunter2"])
    folder = release(run_dir, tmp_path / "out", license="mit")
    assert not [name for name, data in content(folder).items() if b"hunter2" in data or b"me:pass" in data]


def test_licences_are_written_as_spdx_writes_them():
    assert spdx("apache-2.0") == "Apache-2.0" and spdx("cc-by-nc-4.0") == "CC-BY-NC-4.0"
    assert spdx("licenseref-Internal") == "LicenseRef-Internal"


def test_numbers_that_are_not_finite(tmp_path: Path):
    run = small_run(tmp_path / "run")
    write_run(tmp_path / "run", run=run)
    from eyespot.pretrain.checkpoints import reader as checkpoint
    from eyespot.pretrain.checkpoints.writer import CheckpointWriter

    tensors = {f"model.encoder.{name}": tensor for name, tensor in make_encoder(run.encoder).state_dict().items()}
    tensors["model.encoder.norm.weight"][3] = float("nan")
    meta = checkpoint.Meta(step=13, loader={}, world_size=1, run_key="key")
    CheckpointWriter(tmp_path / "run", keep=2).save(tensors, meta, wait=True)
    with pytest.raises(UserError, match=r"1 of 64 numbers of norm\.weight are not finite"):
        release(tmp_path / "run", tmp_path / "out", license="mit", evaluated=False)


def test_golden_input_is_what_the_loader_of_evaluations_makes(released: Path):
    """config.json's mean, deviation and size are those with which eyespot eval judged."""
    golden = load((released / "golden.safetensors").read_bytes())
    shape = (1, 3, 1, 1)
    wanted = (golden["images"] / 255 - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)
    assert torch.allclose(golden["input"], wanted) and golden["images"].shape == (2, 3, 16, 16)
    assert sys.byteorder == "little"
