"""Averages of checkpoints: the mean to the last bit, batch norms by images, and no mixture of unlike things."""

import json
from pathlib import Path

import pytest
import torch
from left_runs import leave_run
from left_runs import small_run as left_run
from released_runs import small_run, write_run
from safetensors.torch import load_file

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.averaging import averaged_encoder, soup_of
from eyespot.eval.release.write import release
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.folders import complete
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.networks.encoders import EncoderConfig


def one_more(run_dir: Path, step: int) -> Path:
    """A later checkpoint whose weights are others."""
    tensors = {f"model.{name}": tensor for name, tensor in checkpoint.read_module(complete(run_dir)[-1]).items()}
    generator = torch.Generator().manual_seed(step)
    tensors = {
        name: tensor + torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    meta = checkpoint.Meta(step=step, loader={"samples_consumed": step}, world_size=1, run_key="key")
    writer = CheckpointWriter(run_dir, keep=9)
    writer.save(tensors, meta, wait=True)
    writer.close()
    return complete(run_dir)[-1]


def mean_of(folders: list[Path]) -> dict[str, torch.Tensor]:
    """Slowly, in float64."""
    found = [checkpoint.read_encoder(folder) for folder in folders]
    return {name: torch.stack([each[name].double() for each in found]).mean(0).float() for name in found[0]}


def test_a_release_of_an_average_is_the_mean_of_its_checkpoints_and_names_them(tmp_path):
    run_dir, other = write_run(tmp_path / "run"), write_run(tmp_path / "other", seed=2)
    folders = [*complete(run_dir), one_more(run_dir, 13), complete(other)[0]]
    names = (folders[0].name, folders[1].name, str(folders[2]))
    out = release(run_dir, tmp_path / "out", license="apache-2.0", average=names, evaluated=False)
    weights = load_file(out / "model.safetensors")
    for name, tensor in mean_of(folders).items():
        assert torch.allclose(weights[name], tensor, rtol=1e-6, atol=1e-8), name
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["weights"] == "average"
    assert [(each["checkpoint"], each["step"]) for each in provenance["average"]] == [
        ("step-00000012", 12), ("step-00000013", 13), ("step-00000012", 12),
    ]  # fmt: skip
    assert provenance["results"] == []
    card = (out / "README.md").read_text()
    assert "the uniform average of 3 checkpoints: step-00000012 (`mae_tiny`, seed 0), step-00000013" in card


def test_the_last_ones_are_the_newest(tmp_path):
    run_dir = write_run(tmp_path / "run")
    later = [one_more(run_dir, 13), one_more(run_dir, 14)]
    assert [each.folder for each in soup_of(run_dir, ("last:2",)).members] == later


def test_batch_norms_take_their_statistics_anew_from_the_runs_images(digits, tmp_path):
    run = left_run("simclr_tiny")
    run.encoder = EncoderConfig(name="test_resnet", image_size=16)
    run.data.shards = str(digits)
    run_dir = leave_run(run, "simclr_tiny", tmp_path / "run", digits)
    folders = [*complete(run_dir), one_more(run_dir, 13)]
    encoder = averaged_encoder(soup_of(run_dir, ("last:2",)))
    plain, found = mean_of(folders), encoder.state_dict()
    statistics = [name for name in found if "running" in name]
    assert statistics and not encoder.training
    for name in statistics:
        assert found[name].isfinite().all() and not torch.allclose(found[name], plain[name], rtol=1e-3), name
    for name in found.keys() - statistics:
        assert name.endswith("num_batches_tracked") or torch.allclose(found[name], plain[name], rtol=1e-6, atol=1e-8)


def without_shards(run_dir, tmp_path):
    run = small_run(tmp_path / "norms", "simclr_tiny", EncoderConfig(name="test_resnet", image_size=16))
    one_more(write_run(tmp_path / "norms", run=run), 13)
    return tmp_path / "norms", ("last:2",)


def another_encoder(run_dir, tmp_path):
    run = small_run(tmp_path / "other", encoder=EncoderConfig(name="test_vit", image_size=32, patch_size=8))
    return run_dir, ("step-00000012", str(complete(write_run(tmp_path / "other", run=run))[0]))


def another_method(run_dir, tmp_path):
    other = write_run(tmp_path / "other", run=small_run(tmp_path / "other", "classify_tiny"))
    return run_dir, ("step-00000012", str(complete(other)[0]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda run_dir, _: (run_dir, ("last:2",)), "must be last:2 to last:1"),
        (lambda run_dir, _: (run_dir, ("step-00000012",)), "must be two checkpoints or more"),
        (lambda run_dir, _: (run_dir, ("step-00000012", "step-00000012")), "each named once"),
        (lambda run_dir, _: (run_dir, ("step-00000012", "absent")), "neither a checkpoint of"),
        (another_encoder, r"its encoder.image_size 32 is not that of step-00000012, 16; leave it out"),
        (another_method, "its method Classify.Config is not that of step-00000012"),
        (without_shards, "has batch norms, whose statistics must be taken anew"),
    ],
    ids=["too many", "one", "twice", "absent", "encoder", "method", "no images"],
)
def test_what_cannot_be_averaged_is_one_line(make, words, tmp_path):
    run_dir, names = make(write_run(tmp_path / "run"), tmp_path)
    with pytest.raises(UserError, match=words):
        averaged_encoder(soup_of(run_dir, names))


def test_how_a_run_trains_its_encoder_keeps_it_from_no_average(tmp_path):
    plain = write_run(tmp_path / "run")
    run = small_run(tmp_path / "other")
    run.encoder.drop_path, run.encoder.checkpointing = 0.1, True
    other = complete(write_run(tmp_path / "other", run=run))[0]
    assert len(soup_of(plain, ("step-00000012", str(other))).members) == 2


def test_the_moving_average_is_released_where_it_is_asked_for(tmp_path):
    run = small_run(tmp_path / "run")
    run.optim.ema = 0.9
    run_dir = write_run(tmp_path / "run", run=run)
    folder = one_more(run_dir, 13)
    asked = {"license": "apache-2.0", "evaluated": False}
    out = release(run_dir, tmp_path / "out", ema=True, **asked)
    averages = checkpoint.read_module(folder, "model.averaged.")
    weights = load_file(out / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in averages.items())
    assert not torch.equal(weights["norm.weight"], checkpoint.read_encoder(folder)["norm.weight"])
    assert "their moving average over the steps, of decay 0.9" in (out / "README.md").read_text()
    with pytest.raises(UserError, match="@ema SHARDS"):
        release(run_dir, tmp_path / "judged", license="apache-2.0", ema=True)
    with pytest.raises(UserError, match="its decoder or tower was not averaged"):
        release(run_dir, tmp_path / "decoder", ema=True, decoder=True, **asked)
    with pytest.raises(UserError, match="leave --checkpoint and --weights out"):
        release(run_dir, tmp_path / "both", ema=True, average=("last:2",), **asked)
    with pytest.raises(UserError, match="say --no-evaluation"):
        release(run_dir, tmp_path / "unjudged", license="apache-2.0", average=("last:2",))
    with pytest.raises(UserError, match="keeps no average of its weights"):
        release(write_run(tmp_path / "plain"), tmp_path / "none", ema=True, **asked)
