"""A released decoder fills in the same pixels as the one that was trained."""

from pathlib import Path

import pytest
import torch
from released_runs import CHECKPOINT, change_json, small_run, write_release
from safetensors.torch import load_file

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.decoder import load_objective
from eyespot.pretrain.checkpoints.reader import read_module
from eyespot.pretrain.networks.encoders import make_encoder


def test_the_same_reconstruction(tmp_path: Path):
    folder = write_release(tmp_path / "whole", decoder=True)
    run = small_run(tmp_path / "whole-run")
    trained = run.objective.build(make_encoder(run.encoder), 16)
    trained.load_state_dict(read_module(tmp_path / "whole-run" / "checkpoints" / CHECKPOINT))
    images, order = torch.randn(3, 3, 16, 16), torch.rand(3, 16).argsort(1)
    with torch.no_grad():
        wanted = trained.eval().reconstruct(images, order)
        assert torch.equal(load_objective(folder).reconstruct(images, order), wanted)
    tensors = load_file(folder / "decoder.safetensors")
    assert {"mask_token", "decoder_pred.weight", "decoder_positions"} <= tensors.keys()
    assert not [name for name in tensors if name.startswith("encoder.")]
    assert "## decoder.safetensors" in (folder / "README.md").read_text()


def test_a_release_without_one(released: Path):
    with pytest.raises(UserError, match=r"has no decoder.safetensors; release the run with --decoder"):
        load_objective(released)


def test_a_strangers_recipe_is_not_imported(tmp_path: Path):
    folder = write_release(tmp_path / "whole", decoder=True)
    change_json(folder / "provenance.json", "recipe", value="os:abort")
    with pytest.raises(UserError, match="recipe os:abort is not eyespot's own"):
        load_objective(folder)
