"""DeepSpeed's settings: what the run makes of its own, and what a file of the user's may lay over them."""

import json

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.engine import DeepSpeedConfig, Settings
from eyespot.pretrain.engines.deepspeed import REFUSED, make_config

CPU = torch.device("cpu")


@pytest.mark.parametrize("key", REFUSED)
def test_options_that_the_run_decides_are_refused(key, tmp_path):
    *outer, inner = key.split(".")
    (tmp_path / "o.json").write_text(json.dumps({outer[0]: {inner: 1}} if outer else {inner: 1}))
    with pytest.raises(UserError, match=key.replace(".", r"\.")) as caught:
        make_config(Settings(deepspeed=DeepSpeedConfig(options=tmp_path / "o.json")), 10, CPU)
    assert REFUSED[key] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"zero_optimization": true}', '{"a":' * 100_000])
def test_options_that_cannot_be_read_are_refused(text, tmp_path):
    if text is not None:
        (tmp_path / "o.json").write_text(text)
    with pytest.raises(UserError, match=r"deepspeed\.options .*o\.json: ") as caught:
        make_config(Settings(deepspeed=DeepSpeedConfig(options=tmp_path / "o.json")), 10, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("stage", "on_cpu"), [(1, False), (2, False), (3, True)])
def test_gradients_cross_the_network_beside_the_backward_pass_of_a_gpu(stage, on_cpu):
    settings = Settings(deepspeed=DeepSpeedConfig(stage=stage))
    for device, expected in (("cpu", on_cpu), ("cuda", True)):
        assert make_config(settings, 10, torch.device(device))["zero_optimization"]["overlap_comm"] is expected


def test_options_are_laid_over_ours(tmp_path):
    (tmp_path / "o.json").write_text('{"zero_optimization": {"reduce_bucket_size": 7}, "wall_clock_breakdown": true}')
    config = make_config(Settings(deepspeed=DeepSpeedConfig(stage=3, options=tmp_path / "o.json")), 10, CPU)
    assert config["zero_optimization"]["reduce_bucket_size"] == 7
    assert config["zero_optimization"]["stage"] == 3
    assert config["wall_clock_breakdown"] is True
    assert config["gradient_clipping"] == 0.0
