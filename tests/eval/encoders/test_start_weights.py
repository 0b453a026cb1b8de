"""Which encoder a training on labels starts from: found from MODEL, fitted, kept, or refused in one line."""

import json
import os

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.encoders.start_weights import config_of, fitted, keep, kept, start_encoder
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder

ONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig(name="test_vit", image_size=16, patch_size=4),
        EncoderConfig(name="resnet18", image_size=32, small_stem=True),
        EncoderConfig(name="test_resnet", image_size=24),
    ],
)
def test_the_settings_of_an_encoder_are_read_off_it(config):
    found = config_of(make_encoder(config), config.image_size, "x")
    assert (found.name, found.image_size, found.small_stem) == (config.name, config.image_size, config.small_stem)
    shapes = [{name: t.shape for name, t in make_encoder(c).state_dict().items()} for c in (config, found)]
    assert shapes[0] == shapes[1]


def test_an_encoder_that_no_setting_describes_is_refused():
    odd = timm.create_model("test_vit", num_classes=0, img_size=16, patch_size=4, depth=2)
    with pytest.raises(UserError, match="has options that encoder"):
        config_of(odd, 16, "odd")


def test_a_larger_image_resamples_the_positions_and_nothing_else():
    small = EncoderConfig(name="test_vit", image_size=16, patch_size=4)
    large = EncoderConfig(name="test_vit", image_size=24, patch_size=4, drop_path=0.1)
    weights = make_encoder(small).state_dict()
    torch.nn.init.normal_(weights["pos_embed"])
    found = fitted(weights, small, large)
    expected = resample_abs_pos_embed(weights["pos_embed"], new_size=[6, 6], num_prefix_tokens=1)
    assert found["pos_embed"].shape == (1, 37, 64)
    assert torch.equal(found["pos_embed"], expected)
    assert torch.equal(found["pos_embed"][:, 0], weights["pos_embed"][:, 0])
    assert all(torch.equal(found[name], weights[name]) for name in weights if name != "pos_embed")
    make_encoder(large).load_state_dict(found)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (EncoderConfig(name="test_vit", image_size=16, patch_size=8), r"encoder\.patch_size 8: MODEL's is 4"),
        (EncoderConfig(name="test_vit2", image_size=16, patch_size=4), r"encoder\.name test_vit2: MODEL's is test_vit"),
    ],
)
def test_another_encoder_is_refused(after, message):
    before = EncoderConfig(name="test_vit", image_size=16, patch_size=4)
    with pytest.raises(UserError, match=message):
        fitted(make_encoder(before).state_dict(), before, after)


def test_weights_that_depend_on_the_size_otherwise_are_refused():
    before, after = (EncoderConfig(name="swin_tiny_patch4_window7_224", image_size=size) for size in (224, 64))
    with torch.device("meta"):
        weights = make_encoder(before).state_dict()
    with pytest.raises(UserError, match=r"does not fit; use --encoder\.image-size 224"):
        fitted(weights, before, after)


def test_it_is_kept_in_the_runs_folder_and_found_again(run_dir, tmp_path):
    start = start_encoder(str(run_dir), scratch=False, pretrained=True)
    assert (start.tag, start.role, start.mean) == ("step-00000012", "encoder", (0.3, 0.3, 0.3))
    config = keep(start, start.encoder, tmp_path / "tuned", ONE)
    stored, own = load_file(config.weights), checkpoint.read_encoder(checkpoint.newest(run_dir))
    assert all(torch.equal(stored[name], own[name]) for name in own)
    again = kept(tmp_path / "tuned")
    assert (again.target, again.sha256, again.encoder) == (str(run_dir), config.sha256, start.encoder)
    later = start_encoder(str(run_dir), scratch=False, pretrained=True)  # whatever MODEL has become since
    assert keep(later, later.encoder, tmp_path / "tuned", ONE) == config


def test_from_scratch_has_the_architecture_and_no_weights(run_dir, tmp_path):
    start = start_encoder(str(run_dir), scratch=True, pretrained=True)
    assert (start.role, start.weights, start.encoder.name) == ("random", None, "test_vit")
    config = keep(start, start.encoder, tmp_path / "tuned", ONE)
    assert config.weights is None and not list((tmp_path / "tuned").glob("*.safetensors"))
    assert kept(tmp_path / "tuned").tag == "scratch"


def test_nothing_there_is_none_and_damage_is_said(tmp_path):
    assert kept(tmp_path) is None
    for said in (json.dumps({"target": "x"}), "[" * 100_000, "[1]", "\xff"):
        (tmp_path / "start.json").write_text(said)
        with pytest.raises(UserError, match="damaged"):
            kept(tmp_path)
    (tmp_path / "start.json").unlink()
    os.mkfifo(tmp_path / "start.json")
    with pytest.raises(UserError, match="damaged"):
        kept(tmp_path)
