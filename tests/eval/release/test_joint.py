"""Both towers of a release are the checkpoint's, to the bit, in one line of Python; the card shows it."""

import re
from pathlib import Path

import pytest
import torch
from released_runs import CHECKPOINT, change_json, copy_of, small_run, two_towered_run, write_release

from eyespot.cluster.cli import main
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.sound_views import log_mel
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.eval.encoders.subject import subjects_of
from eyespot.eval.release.joint import load_joint
from eyespot.eval.release.layout import sha256
from eyespot.pretrain.checkpoints.reader import read_module
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.networks.encoders import EncoderConfig

TEXTS = ["a photo of a cat", "a dog &amp; “a cat”", "", "a " * 100]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With CLIP's own tokenizer."""
    out = tmp_path_factory.mktemp("clip") / "clip"
    return write_release(out, run=two_towered_run(out.with_name("clip-run"), "clip"))


@pytest.mark.parametrize("tokenizer", ["clip", "words"])
def test_embeddings_are_those_of_the_checkpoint(clip: Path, two_towered: Path, tokenizer: str):
    folder = {"clip": clip, "words": two_towered}[tokenizer]
    run = two_towered_run(folder.with_name(f"{folder.name}-run"), "clip" if tokenizer == "clip" else "")
    trained = fresh_objective(run).eval()
    trained.load_state_dict(read_module(folder.with_name(f"{folder.name}-run") / "checkpoints" / CHECKPOINT))
    joint, images = load_joint(folder), torch.randn(3, 3, 16, 16)
    text = run.objective.text
    ids = torch.from_numpy(load_tokenizer(text.tokenizer, text.context)(TEXTS))
    with torch.inference_mode():
        assert torch.equal(joint.embed_images(images), trained.embed_joint("image", images))
        assert torch.equal(joint.embed_texts(TEXTS), trained.embed_joint("text", ids))
        assert torch.equal(joint.embed_joint("text", ids), trained.embed_joint("text", ids))
        assert torch.equal(joint.scale, trained.scale())
    assert joint.embed_texts(TEXTS).norm(dim=1).sub(1).abs().max() < 1e-6 and joint.bias is None
    with pytest.raises(UserError, match="has a tower for text beside that for images, and none for sound"):
        joint.embed_sounds([torch.zeros(100)])


def test_images_and_depth(tmp_path: Path):
    run = small_run(tmp_path / "rgbd-run", "rgbd_contrast_tiny", EncoderConfig(name="test_resnet", image_size=32))
    folder = write_release(tmp_path / "rgbd", run=run)
    trained = fresh_objective(run).eval()
    trained.load_state_dict(read_module(tmp_path / "rgbd-run" / "checkpoints" / CHECKPOINT))
    joint, images, maps = load_joint(folder), torch.randn(3, 3, 32, 32), 40 * torch.rand(3, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(joint.embed_images(images), trained.embed_joint("image", images))
        assert torch.equal(joint.embed_depths(maps), trained.embed_joint("depth", maps))
        assert torch.equal(joint.scale, trained.scale())
    assert (joint.joint, joint.tokenizer) == (("image", "depth"), None)
    assert "depths = joint.embed_depths(maps)" in (folder / "README.md").read_text()
    assert not (folder / "tokenizer.json").exists()


@pytest.mark.parametrize("form", ["contrastive", "distance"])
def test_images_and_sound(tmp_path: Path, form: str):
    run = small_run(tmp_path / "heard-run", "audio_visual_tiny", EncoderConfig(name="test_resnet", image_size=32))
    run.objective.form = form
    folder = write_release(tmp_path / "heard", run=run)
    trained = fresh_objective(run).eval()
    trained.load_state_dict(read_module(tmp_path / "heard-run" / "checkpoints" / CHECKPOINT))
    joint, images, waves = load_joint(folder), torch.randn(3, 3, 32, 32), torch.randn(2, 4800).clamp(-1, 1)
    seen = torch.stack([log_mel(wave, run.objective.sound) for wave in waves])[:, None]
    with torch.inference_mode():
        assert torch.equal(joint.embed_images(images), trained.embed_joint("image", images))
        assert torch.equal(joint.embed_sounds(list(waves)), trained.embed_joint("sound", seen))
    assert (joint.scale is None) == (form == "distance") and joint.view == run.objective.sound
    scaled = "alike = images @ sounds.T" if form == "distance" else "alike = joint.scale * images @ sounds.T"
    assert scaled in (folder / "README.md").read_text()


def test_what_ends_in_no_space_is_released_as_an_encoder(tmp_path: Path):
    run = small_run(tmp_path / "heard-run", "audio_visual_tiny", EncoderConfig(name="test_resnet", image_size=32))
    run.objective.form = "correspondence"
    assert not list(write_release(tmp_path / "heard", run=run).glob("tower-*"))


def test_the_card_shows_it(two_towered: Path):
    from PIL import Image

    card = (two_towered / "README.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", card, re.S)
    given: dict = {"image": Image.new("RGB", (16, 16), "red")}
    exec((first + second).replace("FOLDER", str(two_towered)), given)
    assert given["alike"].shape == (1, 2) and given["alike"].abs().max() <= given["joint"].scale
    assert torch.equal(given["encoder"](given["transform"](given["image"])[None]), given["features"])


def test_pulled_it_is_still_an_encoder(two_towered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    copy = tmp_path / "copy"
    assert main(["pull", str(two_towered), str(copy)]) == 0
    trained, random, *_ = subjects_of(str(copy), seed=0)
    assert (trained.role, random.role) == ("encoder", "random")
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(trained.encoder(images), load_joint(copy).encoder(images))


def test_a_damaged_one_is_not_pulled(two_towered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = copy_of(two_towered, tmp_path / "damaged")
    change_json(folder / "tower-text.json", "context", value=1 << 20)
    change_json(
        folder / "provenance.json", "towers", "sha256", "tower-text.json", value=sha256(folder / "tower-text.json")
    )
    assert main(["pull", str(folder), str(tmp_path / "copy")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "tower-text.json: asks for positional_embedding of" in line and not (tmp_path / "copy").exists()


def test_a_release_of_one_tower_has_no_joint_space(released: Path):
    assert not {path.name for path in released.iterdir()} & {"joint.safetensors", "tokenizer.json"}
    with pytest.raises(UserError, match="has one tower, for images"):
        load_joint(released)
