"""What a run begins with: somebody's weights, exactly, or one line that says why not."""

import hashlib
import json
import resource
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from eyespot.cluster.cli import main
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.loop.initial_weights import (
    check_first_weights,
    check_size,
    first_objective,
    fresh_objective,
    trained_encoder,
)
from eyespot.pretrain.networks.encoders import make_encoder
from eyespot.pretrain.recipe_lookup import make_run

IDS = torch.arange(10)


@pytest.fixture
def run(tmp_path):
    run = make_run("classify_tiny")
    run.run_dir = tmp_path / "run"
    torch.manual_seed(5)
    tensors = make_encoder(run.encoder).state_dict()
    save_file(tensors, tmp_path / "start.safetensors")
    run.start.weights = tmp_path / "start.safetensors"
    run.start.sha256 = hashlib.sha256(run.start.weights.read_bytes()).hexdigest()
    return run


def test_the_encoder_has_the_files_weights_and_the_head_the_seeds(run):
    begun = first_objective(run, IDS).state_dict()
    run.start.weights = None
    drawn = first_objective(run, IDS).state_dict()
    torch.manual_seed(5)
    expected = make_encoder(run.encoder).state_dict()
    for name, tensor in begun.items():
        inner = name.removeprefix("encoder.")
        assert torch.equal(tensor, expected[inner] if inner != name else drawn[name]), name
    assert not torch.equal(begun["encoder.cls_token"], drawn["encoder.cls_token"])


def damage_digest(run):
    run.start.sha256 = "0" * 64


def remove(run):
    run.start.weights.unlink()


def truncate(run):
    run.start.weights.write_bytes(run.start.weights.read_bytes()[:-4])
    run.start.sha256 = ""


def a_type_that_torch_lacks(run):
    header = json.dumps({"x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    run.start.weights.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    run.start.sha256 = ""


def another_encoder(run):
    run.encoder.name, run.encoder.patch_size = "test_vit2", 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage_digest, "not start.sha256 000000000000"),
        (remove, "cannot be read"),
        (truncate, "cannot be read as safetensors"),
        (a_type_that_torch_lacks, "cannot be read as safetensors"),
        (another_encoder, r"there and .* in the encoder; choose the encoder\.\*"),
    ],
)
def test_what_does_not_fit_is_one_line(change, message, run):
    change(run)
    with pytest.raises(UserError, match=message) as caught:
        first_objective(run, IDS)
    assert "\n" not in str(caught.value)
    with torch.device("meta"):
        objective = fresh_objective(run)
    with pytest.raises(UserError) as earlier:
        check_first_weights(objective, run)
    assert str(earlier.value) == str(caught.value), "also where nothing has numbers yet"


def test_another_size_of_patches_is_fitted_and_recorded(run):
    run.encoder.patch_size = 8
    with torch.device("meta"):
        check_first_weights(fresh_objective(run), run)
    objective = first_objective(run, IDS)
    assert objective.began is not None
    assert objective.began["loaded"].endswith(
        "tensors loaded; positions resampled from 17 to 5; patches resampled from 4 to 8 pixels"
    )


def test_a_run_with_a_checkpoint_goes_on_without_the_file(run, digits):
    short = ["--data.batch-size", "32", "--steps", "4", "--optim.warmup-steps", "0", "--no-track", "--device", "cpu"]
    words = ["pretrain", "classify_tiny", "--data.shards", str(digits), "--run-dir", str(run.run_dir), *short]
    words += ["--start.weights", str(run.start.weights), "--start.sha256", run.start.sha256, "--resume", "auto"]
    assert main([*words, "--stop-after", "2"]) == 0
    run.start.weights.unlink()
    assert main(words) == 0
    assert checkpoint.read_meta(checkpoint.newest(run.run_dir)).step == 4
    held, k = json.loads((run.run_dir / "run.json").read_text()), len(make_encoder(run.encoder).state_dict())
    assert held["run"]["start"]["sha256"] == run.start.sha256
    assert held["start"] == {
        "weights": str(run.start.weights),
        "sha256": run.start.sha256,
        "loaded": f"{k} of {k} tensors loaded",
        "copies": 1,
    }


def test_the_log_says_how_many_tensors_and_copies(tmp_path, caplog):
    run = make_run("moco_tiny")
    run.run_dir = tmp_path / "run"
    tensors = make_encoder(run.encoder).state_dict()
    save_file(tensors, tmp_path / "start.safetensors")
    run.start.weights = tmp_path / "start.safetensors"
    with caplog.at_level("INFO", logger="eyespot"):
        first_objective(run, IDS)
    k = len(tensors)
    said = f"start: {k} of {k} tensors loaded from {run.start.weights}, in each of 2 copies of the encoder"
    assert said in caplog.text


WIDER = [
    ("encoder", "name", "vit_base_patch16_224"),
    ("objective", "decoder_dim", 10**9),  # a matrix of 10^18 numbers
    ("objective", "decoder_dim", 10**6),
    ("objective", "decoder_depth", 1000),  # each of its tensors is small
    ("encoder", "image_size", 960),
    ("encoder", "image_size", 100_000),
]
SIBLINGS = [
    *(("dino", "out_dim"), ("moco", "queue_size"), ("swav", "queue_size"), ("swav", "num_prototypes")),
    *(
        ("simclr", "hidden_dim"),
        ("byol", "hidden_dim"),
        ("vae", "latent_dim"),
        ("simsiam", "dim"),
        ("jigsaw", "tile_dim"),
    ),
]


@pytest.mark.parametrize(("part", "field", "value"), WIDER)
def test_what_a_strangers_record_makes_larger_takes_no_memory(part, field, value, tmp_path):
    run = make_run("mae_tiny")
    tensors = {f"model.{name}": tensor for name, tensor in fresh_objective(run).state_dict().items()}
    meta = checkpoint.Meta(step=1, loader={}, world_size=1, run_key="k")
    CheckpointWriter(tmp_path, keep=2).save(tensors, meta, wait=True)
    folder = checkpoint.newest(tmp_path)
    assert sorted(trained_encoder(run, folder).state_dict()) == sorted(make_encoder(run.encoder).state_dict())
    larger = replace(run, **{part: replace(getattr(run, part), **{field: value})})
    with pytest.raises(
        UserError,
        match=r"(numbers there and [\d,]+ by run.json|more memory than there is .*); it was written by another run",
    ):
        trained_encoder(larger, folder)
    with pytest.raises(UserError, match="by another run"):
        check_size(larger, folder)


@pytest.mark.parametrize("value", [10**9 // 256 * 256, 2**24])
@pytest.mark.parametrize(("method", "field"), SIBLINGS)
def test_widths_queues_and_prototypes_too(method, field, value, tmp_path):
    """Whatever the method: each of these would take over a gigabyte."""
    run = make_run(f"{method}_tiny")
    tensors = {f"model.{name}": tensor for name, tensor in fresh_objective(run).state_dict().items()}
    CheckpointWriter(tmp_path, keep=2).save(
        tensors, checkpoint.Meta(step=1, loader={}, world_size=1, run_key="k"), wait=True
    )
    check_size(run, checkpoint.newest(tmp_path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    larger = replace(run, objective=replace(run.objective, **{field: value}))
    with pytest.raises(UserError, match="by another run"):
        check_size(larger, checkpoint.newest(tmp_path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200_000, "kilobytes"


def test_whole_numbers_are_no_weights(tmp_path):
    """safetensors holds any type, and a state dict takes it without a word."""
    run = make_run("mae_tiny")
    tensors = {f"model.{name}": tensor for name, tensor in fresh_objective(run).state_dict().items()}
    tensors["model.encoder.norm.weight"] = tensors["model.encoder.norm.weight"].to(torch.int32)
    meta = checkpoint.Meta(step=1, loader={}, world_size=1, run_key="k")
    CheckpointWriter(tmp_path, keep=2).save(tensors, meta, wait=True)
    with pytest.raises(UserError, match=r"norm.weight is int32 there and float32 in the encoder"):
        trained_encoder(run, checkpoint.newest(tmp_path))


def test_a_teacher_of_random_weights_is_a_warning(caplog):
    with caplog.at_level("WARNING", logger="eyespot"):
        first_objective(make_run("distill_tiny"), torch.arange(10))
    assert "has random weights, from which nothing is learned; name one by --objective.teacher.model" in caplog.text
