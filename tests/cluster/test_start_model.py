"""``--start.model``: the encoder that it names, with what this expects of images, unless the user says otherwise."""

import dataclasses
import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from eyespot.cluster.cli import main
from eyespot.cluster.config_files.request import asked
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints.folders import newest
from eyespot.pretrain.loop.initial_weights import first_objective, trained_encoder
from eyespot.pretrain.networks.encoders import features
from eyespot.pretrain.run_json import load_run, recorded_values
from eyespot.pretrain.run_record import RunRecord

IDS = torch.arange(10)
SHORT = ["--data.batch-size", "32", "--steps", "2", "--optim.warmup-steps", "0", "--no-track", "--device", "cpu"]


def run_of(words):
    return asked(words.split(), "eyespot pretrain").with_flags()


def test_a_name_of_timms_sets_encoder_and_normalisation():
    run = run_of("mae_tiny --start.model test_vit.r160_in1k --start.weights file.safetensors")
    known = timm.get_pretrained_cfg("test_vit.r160_in1k")
    assert known is not None and known.mean == (0.5, 0.5, 0.5) and known.fixed_input_size
    assert (run.encoder.name, run.encoder.image_size, run.encoder.patch_size) == ("test_vit", 160, None)
    assert (run.data.mean, run.data.std) == (known.mean, known.std)
    run = run_of("classify_tiny --start.model resnet18.a1_in1k --start.weights f.safetensors --data.normalize dataset")
    assert (run.encoder.name, run.encoder.image_size, run.encoder.small_stem) == ("resnet18", 16, False)
    assert (run.data.mean, run.data.normalize) == (None, "dataset")
    said = "--encoder.image-size 48 --encoder.patch-size 8 --encoder.drop-path 0.1"
    run = run_of(f"mae_tiny --start.model test_vit.r160_in1k {said}")
    assert (run.encoder.image_size, run.encoder.patch_size, run.encoder.drop_path) == (48, 8, 0.1)
    run = run_of("mae_tiny --start.model test_vit.r160_in1k --start.weights file.safetensors --encoder.channels 6")
    assert (run.encoder.channels, run.data.mean, run.data.std) == (6, None, None)  # those of the bands
    run = run_of("simclr_tiny --start.model resnet50.a1_in1k")
    assert (run.data.mean, run.data.std, run.data.normalize) == (None, None, "imagenet")  # resnet50's are ImageNet's


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--start.model vit_smal_patch16_224", r"start\.model 'vit_smal_patch16_224': .*close names: vit_small"),
        (
            "--start.model test_vit --encoder.name resnet18",
            r"encoder\.name resnet18: start\.model test_vit is test_vit",
        ),
        ("--start.model test_vit.mine", r"timm knows no such tag; those of this architecture: .*test_vit\.r160_in1k"),
        ("--start.model .", r"model \.: this folder is not a run folder"),
        ("--start.model pixel_transformer_small", "publishes no weights of it; add --start.weights"),
    ],
)
def test_what_is_no_model_is_one_line(words, message):
    with pytest.raises(UserError, match=message) as caught:
        run_of(f"mae_tiny {words}")
    assert "\n" not in str(caught.value)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "file.safetensors").touch()
    with pytest.raises(UserError, match=r"start\.model .*file\.safetensors': is a file; name it by --start\.weights"):
        run_of(f"mae_tiny --start.model {tmp_path}/file.safetensors")


def test_a_file_of_timms_gives_timms_features_to_the_bit(tmp_path):
    torch.manual_seed(3)
    theirs = timm.create_model("test_vit", num_classes=0).eval()
    save_file(theirs.state_dict(), tmp_path / "file.safetensors")
    run = run_of(
        f"dino_tiny --start.model test_vit --start.weights {tmp_path}/file.safetensors --run-dir {tmp_path}/run"
    )
    run.objective = dataclasses.replace(run.objective, num_small=0)
    objective = first_objective(run, IDS).eval()
    images = torch.randn(2, 3, 160, 160)
    for encoder in (objective.encoder, objective.get_submodule("student")):
        assert torch.equal(features(encoder, images), features(theirs, images))
    assert objective.began is not None and objective.began["model"] == "test_vit" and objective.began["copies"] == 2


def test_a_run_and_its_checkpoint_go_on_in_another_method(digits, tmp_path):
    first = ["--data.shards", str(digits), "--run-dir", str(tmp_path / "first"), *SHORT]
    assert main(["pretrain", "classify_tiny", *first, "--data.normalize", "dataset", "--optim.ema", "0.5"]) == 0
    words = f"simclr_tiny --start.model {tmp_path}/first --run-dir {tmp_path}/second"
    run = run_of(words)
    before, folder = load_run(tmp_path / "first")[1], newest(tmp_path / "first")
    assert folder is not None and run.start.weights == folder and run.start.sha256
    assert run.encoder == before.encoder
    assert (run.data.mean, run.data.std) == RunRecord.read(tmp_path / "first/run.json").mean_and_std(tmp_path / "first")
    expected = trained_encoder(before, folder).state_dict()
    begun = first_objective(run, IDS).encoder.state_dict()
    assert all(torch.equal(begun[name], tensor) for name, tensor in expected.items())
    of_ema = run_of(words.replace("/first ", "/first@ema "))
    averaged, begun = trained_encoder(before, folder, "ema").state_dict(), first_objective(of_ema, IDS).encoder
    assert all(torch.equal(begun.state_dict()[name], tensor) for name, tensor in averaged.items())
    assert not all(torch.equal(averaged[name], tensor) for name, tensor in expected.items())
    taught = run_of(f"distill_tiny --objective.teacher.model {tmp_path}/first@ema").objective
    assert getattr(taught, "teacher").prefix == of_ema.start.prefix == "averaged."  # noqa: B009 - of one method only

    second = tmp_path / "second"
    second.mkdir()
    record = {
        **json.loads((tmp_path / "first/run.json").read_text()),
        "recipe": "simclr_tiny",
        "run": recorded_values(run),
    }
    (second / "run.json").write_text(json.dumps(record))
    (folder / "meta.json").unlink()  # what has begun asks no more for what it began with
    again = run_of(words)
    assert (again.start, again.encoder, again.data.mean) == (run.start, run.encoder, run.data.mean)
