"""Encoders from elsewhere: what timm saved, what somebody changed in it, and timm's own as they were the last time."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf

from eyespot.data_pipeline.augment.crop_geometry import center_crops
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.resize import resize_views
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders import timm_sources
from eyespot.eval.encoders.feature_cache import features_of
from eyespot.eval.encoders.subject import subjects_of
from eyespot.eval.release.golden import golden_images, normalized
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.encoders import encode

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A classifier of 32 pixels as timm saves it, with a mean of its own."""
    folder = tmp_path_factory.mktemp("timm") / "vit"
    torch.manual_seed(3)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=10)
    args = {"img_size": 32, "patch_size": 8, "depth": 2}
    save_for_hf(vit, folder, model_config={"mean": [0.1, 0.2, 0.3]}, model_args=args, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "crop_pct": 0.8}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_that_timm_saved(saved):
    trained, twin = subjects_of(str(saved), seed=0)[:2]
    theirs = timm.create_model(f"local-dir:{saved}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(encode(trained.encoder, images)["cls"], theirs.forward_features(images)[:, 0])
    (view,) = trained.views.views
    assert (view.size, view.resize, trained.views.mean) == (32, 40, (0.1, 0.2, 0.3))
    assert trained.name == "vit (vit_tiny_patch16_224)" and trained.tag == "published"
    assert [subject.role for subject in (trained, twin)] == ["encoder", "random"]
    assert trained.views == twin.views and trained.digest() != twin.digest()
    assert trained.encoder.state_dict().keys() == twin.encoder.state_dict().keys()
    assert subjects_of(f"local-dir:{saved}", seed=0)[1].digest() == twin.digest()
    assert subjects_of(str(saved), seed=1)[1].digest() != twin.digest()


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    without_weights(folder)


def pickle_under_the_name(folder: Path) -> None:
    torch.save({"a": 1}, folder / "model.safetensors")


def cut_short(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def one_weight_less(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: w for name, w in weights.items() if name != "norm.bias"}, folder / "model.safetensors")


def one_weight_more(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "header.bias": torch.zeros(1)}, folder / "model.safetensors")


def set_config(**values):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return change


def wrong_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"fixed_input_size": False, "input_size": [3, 48, 48]}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_weights, r"has a config.json but no model.safetensors"),
        (as_pickle, r"pytorch_model.bin, a pickle, which could run code"),
        (pickle_under_the_name, r"model.safetensors is damaged, or is no safetensors file at all"),
        (cut_short, r"model.safetensors is damaged"),
        (one_weight_less, r"does not fit the encoder of config.json: .*norm.bias"),
        (one_weight_more, r"does not fit the encoder of config.json: .*header.bias"),
        (set_config(architecture="vit_tinny"), r"timm .* cannot build what config.json says \(Unknown model"),
        (set_config(model_args={"depht": 3}), r"cannot build what config.json says"),
        (set_config(pretrained_cfg={"mean": "gray"}), r"cannot build what config.json says"),
        (wrong_size, r"takes no images of the size that config.json says, 48"),
        (lambda folder: (folder / "config.json").write_text("{}"), r"names no architecture, so it is not timm's$"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "dinov2"}'),
            r"it is transformers': a run starts from it by .* --start.weights .*/model.safetensors$",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), r"config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"config.json cannot be read \(expected object"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_in_one_line(saved, tmp_path, change, words):
    change(Path(shutil.copytree(saved, tmp_path / "vit")))
    with pytest.raises(UserError, match=words) as caught:
        subjects_of(str(tmp_path / "vit"), seed=0)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"model {tmp_path / 'vit'}: ")


def test_timm_computes_what_it_computed(digits, tmp_path):
    """The harness against itself: weights of seed 0 on digits, from the file to the features of two blocks."""
    vit, _ = subjects_of("test_vit", seed=0, pretrained=False)
    found = features_of(vit, ShardFolder(digits / "test"), tmp_path, ALONE, 2)
    expected = {
        "cls": ([0.944706, -0.249704, -0.372604, 0.194866], [0.887334, -0.152416]),
        "mean": ([0.020325, 0.213839, -0.188135, 0.083639], [-0.012791, 0.248724]),
        "cls-2": ([0.698952, -0.565509, 0.190794, 0.219089], [0.721329, -0.434564]),
        "mean-2": ([-0.002242, 0.277256, -0.178848, 0.027666], [-0.031336, 0.288570]),
    }
    for kind, (first, last) in expected.items():
        np.testing.assert_allclose(found[kind][0, :4], first, atol=2e-4)
        np.testing.assert_allclose(found[kind][-1, :2], last, atol=2e-4)
    resnet = timm_sources.untrained("test_resnet", 0).eval()
    with torch.inference_mode():
        stages = encode(resnet, normalized(golden_images(32), [0.5] * 3, [0.25] * 3), 2)
    np.testing.assert_allclose(stages["mean"][1, :3], [0.093484, 0, 0.033931], atol=2e-5)
    np.testing.assert_allclose(stages["mean-2"][1, :3], [0.000568, 0.034765, 0.065932], atol=2e-5)


PHOTO = np.outer(np.arange(96), np.ones(160))[..., None] % 256 + np.arange(160)[None, :, None] * [0.5, 0.9, 0.2]
"""Smooth, so that interpolations that round at other places agree."""


HOSTILE = [
    ({"architecture": "vit_giant_patch14_224"}, "asks for an encoder of [0-9,]+ parameters, model.safetensors holds"),
    ({"model_args": {"depth": 10**6}}, "model_args.depth 1000000: model.safetensors has [0-9]+ tensors"),
    ({"model_args": {"embed_dim": 10**7}}, "asks for an encoder of|cannot build"),
    ({"architecture": "resnet26", "model_args": {"layers": [3, 4, 10**7]}}, "model_args.layers .*has [0-9]+ tensors"),
    ({"model_args": [1]}, "model_args is list, not an object"),
    ({"pretrained_cfg": {"crop_pct": 1e-9}}, "crop_pct 1e-09"),
    ({"pretrained_cfg": {"crop_pct": 1e9}}, "crop_pct 1000000000"),
]


@pytest.mark.parametrize(("values", "words"), HOSTILE)
def test_a_config_that_asks_for_more_than_its_weights_are(saved, tmp_path, values, words):
    folder = shutil.copytree(saved, tmp_path / "vit")
    held = json.loads((folder / "config.json").read_text())
    for name, value in values.items():
        held[name] = {**held[name], **value} if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(held))
    with pytest.raises(UserError, match=words) as caught:
        subjects_of(str(folder), seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hf-hub:nobody/none", "hf_hub:", "hf-hub:a/b/c/d", "hf-hub:../.."])
def test_a_name_of_the_hub_without_a_network_is_one_line(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot be had from the hub") as caught:
        subjects_of(name, seed=0)
    assert "\n" not in str(caught.value)


def test_a_config_that_nests_without_end(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "vit")
    (folder / "config.json").write_text('{"a": ' * 100_000)
    with pytest.raises(UserError, match="nested too deep"):
        subjects_of(str(folder), seed=0)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_views_are_those_that_timm_makes(mode, interpolation, crop_pct):
    asked = {"crop_mode": mode, "interpolation": interpolation, "crop_pct": crop_pct}
    wanted = {"input_size": (3, 33, 33), "mean": (0.48, 0.4, 0.3), "std": (0.2, 0.3, 0.4), **asked}
    spec = timm_sources.views_of(wanted)
    theirs = create_transform(**resolve_data_config(pretrained_cfg=wanted), is_training=False)
    for image in (PHOTO.astype(np.uint8), PHOTO.astype(np.uint8).transpose(1, 0, 2), PHOTO[:20, :20].astype(np.uint8)):
        image, out = np.ascontiguousarray(image), np.empty((1, 3, 33, 33), np.float32)
        places = center_crops(spec.views[0], np.array([image.shape[:2]], np.int32))
        resize_views([image], places, None, spec.mean, spec.std, out)
        expected = theirs(Image.fromarray(image)).numpy()
        assert np.abs(out[0] - expected).max() <= 2 / 255 / 0.2


def test_digests_of_plain_views_are_those_of_before():
    known = "ViewSpec(views=(CenterView(resize=256, size=224),), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))"
    wanted = {"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.875}
    assert repr(timm_sources.views_of({**wanted, "interpolation": "bicubic"})) == known
    odd = timm_sources.views_of({**wanted, "interpolation": "bilinear", "crop_mode": "squash"})
    assert "mode='squash', interpolation='bilinear'" in repr(odd)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"input_size": (3, 64, 48)}, "wants images of 3 x 64 x 48; views are square"),
        ({"interpolation": "lanczos"}, "wants crop_mode 'center' and interpolation 'lanczos'"),
        ({"crop_mode": "stretch"}, "wants crop_mode 'stretch'"),
    ],
)
def test_what_cannot_be_made_is_one_line(odd, words):
    with pytest.raises(UserError, match=words):
        timm_sources.views_of({"input_size": (3, 64, 64), "architecture": "x", **odd})


def test_all_published_encoders_get_their_views_or_one_line():
    """The five that are refused see images that are not square."""
    refused = []
    for name in timm.list_pretrained():
        try:
            timm_sources.views_of(timm.get_pretrained_cfg(name).to_dict())
        except UserError as error:
            refused.append(str(error))
    assert len(refused) <= 5 and all("1024 x 768" in line for line in refused)
