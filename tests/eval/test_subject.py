import json

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.subject import center_view, encode_all, subjects_of


def test_a_run_its_random_twin_and_raw_pixels(run_dir):
    trained, random, pixels = subjects_of(str(run_dir), seed=0)
    assert [subject.role for subject in (trained, random, pixels)] == ["encoder", "random", "pixels"]
    assert trained.name == "mae_tiny, step 12" and trained.tag == "step-00000012"
    assert len({subject.digest() for subject in (trained, random, pixels)}) == 3
    images = torch.rand(2, 3, 16, 16)
    assert encode_all(pixels.encoder, images)["pixels"].equal(images.flatten(1))
    shapes = [
        {kind: tuple(rows.shape) for kind, rows in encode_all(s.encoder, images).items()} for s in (trained, random)
    ]
    assert shapes[0] == shapes[1] and set(shapes[0]) == {"cls", "mean"}


def test_the_twin_is_what_training_starts_from(run_dir):
    """With the checkpoint's own seed the twin has the very weights that the checkpoint was made with."""
    trained, twin, _ = subjects_of(str(run_dir), seed=1)
    assert trained.digest() == twin.digest()


def test_building_a_twin_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    subjects_of("test_vit", seed=0, pretrained=False)
    assert torch.get_rng_state().equal(before)


def test_timm_names():
    (random,) = subjects_of("test_vit", seed=0, pretrained=False)
    assert random.role == "random" and random.views.views[0].size == 160
    (convolutional,) = subjects_of("test_resnet", seed=0, pretrained=False)
    found = encode_all(convolutional.encoder, torch.zeros(2, 3, 64, 64))
    assert list(found) == ["mean"] and found["mean"].shape == (2, convolutional.encoder.num_features)


def test_center_view_keeps_small_images_whole():
    assert center_view(32).resize == 32 and center_view(224).resize == 256


def test_unknown_name():
    with pytest.raises(
        UserError, match=r"no such folder, nor a name that timm knows, nor models:/.*; close names: .*vit_tiny"
    ):
        subjects_of("vit_tinny_patch16_224", seed=0)


def test_no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"^model 'test_vit': no published weights .*--no-pretrained$"):
        subjects_of("test_vit", seed=0)


def test_no_checkpoint_yet(run_dir):
    (run_dir / "checkpoints" / "step-00000012").rename(run_dir / "elsewhere")
    with pytest.raises(UserError, match="no complete checkpoint yet"):
        subjects_of(str(run_dir), seed=0)


def test_damaged_checkpoint(run_dir):
    (file,) = (run_dir / "checkpoints" / "step-00000012").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        subjects_of(str(run_dir), seed=0)


def test_checkpoint_of_another_encoder(run_dir):
    record = json.loads((run_dir / "run.json").read_text())
    record["run"]["encoder"]["name"] = "vit_tiny_patch16_224"
    (run_dir / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="does not fit encoder vit_tiny"):
        subjects_of(str(run_dir), seed=0)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        subjects_of(str(tmp_path), seed=0)


def test_normalisation_is_the_runs_own(run_dir):
    assert subjects_of(str(run_dir), seed=0)[0].views.mean == (0.3, 0.3, 0.3)
    record = json.loads((run_dir / "run.json").read_text())
    del record["normalization"]
    (run_dir / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="no field normalization"):
        subjects_of(str(run_dir), seed=0)
