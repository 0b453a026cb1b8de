import json
import shutil

import pytest
import timm
import torch
from left_runs import leave_run, small_run
from mlflow import MlflowClient
from released_runs import CHECKPOINT, write_release
from torchvision.transforms import functional

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.encoders.run_objectives import objectives_of
from eyespot.eval.encoders.subject import MAX_PIXEL_SIDE, encode_all, run_of, subjects_of
from eyespot.eval.evaluate import results_folder
from eyespot.eval.release.layout import digest_of
from eyespot.eval.release.registry import DIGEST_TAG
from eyespot.pretrain.checkpoints import reader as checkpoint


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


def test_the_moving_average_of_the_weights_where_it_is_asked_for(digits, tmp_path):
    run = small_run("mae_tiny")
    run.optim.ema = 0.9
    run_dir = leave_run(run, "mae_tiny", tmp_path / "run", digits)
    trained = subjects_of(str(run_dir), seed=0)[0]
    for target in (f"{run_dir}@ema", f"{run_dir}/checkpoints/{trained.tag}@ema"):
        averaged, twin, _ = subjects_of(target, seed=0)
        assert averaged.name == "mae_tiny, step 12, weights averaged" and averaged.tag == "step-00000012-ema"
        assert averaged.origin == trained.origin | {"weights": "ema"} and twin.role == "random"
        assert run_of(target) == run_dir and results_folder(target) == run_dir / "eval"
    assert averaged.digest() == trained.digest()  # as they began
    with pytest.raises(UserError, match="asks the run's own head"):
        objectives_of(f"{run_dir}@ema", 0, lambda objective: True)


def test_an_average_that_no_run_keeps(run_dir):
    with pytest.raises(UserError, match="this run keeps no average of its weights"):
        subjects_of(f"{run_dir}@ema", seed=0)


def test_building_a_twin_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    subjects_of("test_vit", seed=0, pretrained=False)
    assert torch.get_rng_state().equal(before)


def test_large_images_are_a_baseline_at_a_smaller_size():
    """Shrunk as torch resizes, and named by that size; small ones stay as they are."""
    _, pixels = subjects_of("test_vit", seed=0, pretrained=False)
    images = torch.rand(2, 3, 160, 160)
    found = encode_all(pixels.encoder, images)["pixels"]
    expected = functional.resize(images, [MAX_PIXEL_SIDE, MAX_PIXEL_SIDE], antialias=True)
    assert (pixels.name, pixels.role, found.shape) == ("raw pixels at 18 px", "pixels", (2, 3 * 18 * 18))
    assert torch.allclose(found, expected.flatten(1), atol=1e-6)
    exact = torch.rand(2, 3, MAX_PIXEL_SIDE, MAX_PIXEL_SIDE)
    assert encode_all(pixels.encoder, exact)["pixels"].equal(exact.flatten(1))


def test_timm_names():
    random, _ = subjects_of("test_vit", seed=0, pretrained=False)
    assert random.role == "random" and random.views.views[0].size == 160
    convolutional, _ = subjects_of("test_resnet", seed=0, pretrained=False)
    found = encode_all(convolutional.encoder, torch.zeros(2, 3, 64, 64))
    assert list(found) == ["mean"] and found["mean"].shape == (2, convolutional.encoder.num_features)


def test_a_file_of_weights_behind_a_timm_name(tmp_path):
    torch.manual_seed(3)
    encoder = timm.create_model("test_vit", num_classes=0).eval()
    held = {f"teacher.backbone.{name}": tensor for name, tensor in encoder.state_dict().items()}
    file = tmp_path / "dino@2.pth"
    torch.save({**held, "teacher.head.mlp.0.weight": torch.zeros(3)}, file)
    given, twin, _ = subjects_of(f"test_vit@{file}", seed=0)
    images = torch.randn(1, 3, 160, 160)
    assert torch.equal(given.encoder(images), encoder(images)) and twin.role == "random"
    assert given.views == twin.views and given.name == "test_vit, dino@2.pth" and given.digest() != twin.digest()
    assert given.tag == f"file-{given.origin['weights_sha256'][:8]}" and "teacher.backbone.*" in given.origin["loaded"]
    with pytest.raises(UserError, match=r"^model test_vit@.*none: cannot be read \(No such file"):
        subjects_of(f"test_vit@{tmp_path}/none", seed=0)
    with pytest.raises(UserError, match=r"^model test_resnet@.* there and .*test_resnet is not the encoder that"):
        subjects_of(f"test_resnet@{file}", seed=0)
    with pytest.raises(UserError, match=r"^model 'vit_tinny': no such folder"):
        subjects_of(f"vit_tinny@{file}", seed=0)


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
    with pytest.raises(UserError, match=r"does not fit encoder vit_tiny|written by another run"):
        subjects_of(str(run_dir), seed=0)


def test_one_checkpoint_of_a_run(run_dir, monkeypatch):
    first = run_dir / "checkpoints" / CHECKPOINT
    second = first.with_name("step-00000024")
    shutil.copytree(first, second)
    meta = json.loads((second / "meta.json").read_text())
    (second / "meta.json").write_text(json.dumps({**meta, "step": 24}))
    assert checkpoint.newest(run_dir) == second
    monkeypatch.chdir(first)
    for target in (str(first), f"{first}/", "."):
        trained, twin, _ = subjects_of(target, seed=0)
        assert trained.tag == CHECKPOINT and trained.name == "mae_tiny, step 12"
        assert results_folder(target) == run_dir / "eval"
    newest, other, _ = subjects_of(str(run_dir), seed=0)
    assert newest.tag == "step-00000024" and other.digest() == twin.digest()
    assert run_of("test_vit") is None and run_of(str(run_dir)) == run_dir


def test_a_folder_of_no_kind(run_dir, tmp_path):
    moved = tmp_path / CHECKPOINT
    shutil.copytree(run_dir / "checkpoints" / CHECKPOINT, moved)
    partial = run_dir / "checkpoints" / "step-00000013.tmp"
    shutil.copytree(moved, partial)
    for folder in (moved, partial, run_dir / "checkpoints", tmp_path):
        kinds = r"is not a run folder \(.*\), nor a run's checkpoint \(.*\), nor a release \(.*\), nor a timm folder"
        with pytest.raises(UserError, match=kinds):
            subjects_of(str(folder), seed=0)


def test_a_release(tmp_path):
    folder = write_release(tmp_path / "release")
    trained, twin, pixels = subjects_of(str(folder), seed=0)
    source, _, _ = subjects_of(str(tmp_path / "release-run"), seed=0)
    images = torch.rand(2, 3, 16, 16)
    for kind, rows in encode_all(source.encoder, images).items():
        assert torch.equal(encode_all(trained.encoder, images)[kind], rows)
    assert trained.views == source.views == pixels.views
    assert trained.name == "release-run, step 12" and trained.tag == f"release-{digest_of(folder)[:8]}"
    assert trained.origin["release_sha256"] == digest_of(folder) and trained.origin["step"] == 12
    assert twin.role == "random" and twin.encoder.state_dict().keys() == trained.encoder.state_dict().keys()
    (folder / "SHA256SUMS").unlink()  # what could be a release must be a whole one
    with pytest.raises(UserError, match="SHA256SUMS"):
        subjects_of(str(folder), seed=0)


def test_a_release_of_the_registry(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, client = write_release(tmp_path / "release"), MlflowClient(uri)
    client.create_registered_model("digits")
    client.create_model_version("digits", source=str(folder), tags={DIGEST_TAG: digest_of(folder)})
    client.set_registered_model_alias("digits", "best", "1")
    expected = subjects_of(str(folder), seed=0)[0].digest()
    assert subjects_of("models:/digits@best", seed=0)[0].digest() == expected
    (folder / "model.safetensors").write_bytes(b"gone")  # now it is on this machine
    assert subjects_of("models:/digits/1", seed=0)[0].digest() == expected
    (kept,) = (path for path in (tmp_path / "cache" / "eyespot" / "releases").iterdir() if path.is_dir())
    weights = bytearray((kept / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (kept / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"model.safetensors is damaged or swapped"):
        subjects_of("models:/digits@best", seed=0)
    with pytest.raises(UserError, match="worst"):
        subjects_of("models:/digits@worst", seed=0)


def test_normalisation_is_the_runs_own(run_dir):
    assert subjects_of(str(run_dir), seed=0)[0].views.mean == (0.3, 0.3, 0.3)
    record = json.loads((run_dir / "run.json").read_text())
    del record["normalization"]
    (run_dir / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="no field normalization"):
        subjects_of(str(run_dir), seed=0)
