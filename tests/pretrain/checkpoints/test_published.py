"""Published weights as timm hands them out; here out of a folder that it saved, for tests have no network."""

import pytest
import timm
import torch

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.pretrain.checkpoints.published import hub_failure, published_encoder
from eyespot.pretrain.loop.initial_weights import first_objective
from eyespot.pretrain.recipe_lookup import make_run


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(4)
    model = timm.create_model("test_vit", num_classes=7)
    timm.models.save_for_hf(model, str(tmp_path / "saved"), model_config={"num_classes": 7})
    return tmp_path / "saved", model


def test_all_weights_but_the_classifiers(folder):
    path, model = folder
    found = published_encoder(f"local-dir:{path}", "start.model", "").state_dict()
    assert found.keys() == {name for name in model.state_dict() if not name.startswith("head.")}
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in found.items())


def test_a_run_begins_with_them_at_its_own_size(folder, tmp_path):
    path, model = folder
    run = make_run("mae_tiny")
    run.encoder.name, run.encoder.image_size, run.encoder.patch_size = "test_vit", 48, 16
    run.start.model, run.run_dir = f"local-dir:{path}", tmp_path / "run"
    objective = first_objective(run, torch.arange(4))
    k = len(objective.encoder.state_dict())
    said = f"{k} of {k} tensors loaded; positions resampled from 101 to 10"
    assert objective.began is not None and objective.began["loaded"] == said
    assert torch.equal(objective.encoder.get_parameter("cls_token"), model.cls_token)


def test_what_is_not_published_is_one_line_with_advice():
    with pytest.raises(
        UserError, match=r"start\.model 'test_vit\.nobodys': no published weights .*; give a file"
    ) as caught:
        published_encoder("test_vit.nobodys", "start.model", "give a file")
    assert "\n" not in str(caught.value)


def test_who_is_away_may_come_back():
    assert hub_failure(ConnectionError()) in (Outage, UserError) and hub_failure(ValueError()) is UserError
