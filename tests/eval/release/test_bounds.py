"""A stranger's config.json is held against the weights before anything is built: in no time, and in no memory."""

import json
import resource
import struct
import time
from pathlib import Path

import pytest
from released_runs import copy_of

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.bounds import check_bounds
from eyespot.eval.release.layout import CONFIG, WEIGHTS, read_json


def refuse(folder: Path, config: dict, words: str) -> None:
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(UserError, match=words) as error:
        check_bounds(folder, config, "it")
    assert "\n" not in str(error.value) and time.process_time() - begin < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


def test_a_release_is_within_them(released: Path):
    check_bounds(released, read_json(released / CONFIG, "it"), "it")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "eva_giant_patch14_560"}, "asks for an encoder of 1,0.* parameters"),
        (
            {"architecture": "vit_so150m_patch16_reg4_gap_256", "model_args": {"patch_size": 1}},
            "asks for an encoder of",
        ),
        ({"architecture": "hf_hub:a/b"}, "has no architecture"),
        ({"architecture": "../x"}, "has no architecture"),
        ({"architecture": 5}, "architecture: expected str"),
        ({"num_classes": 10**9}, "num_classes"),
        ({"model_args": {"num_classes": 10**9}}, "model_args.num_classes: no release has it"),
        ({"model_args": {"in_chans": 10**9}}, "model_args: in_chans: expected int <= 512"),
        ({"model_args": {"depth": 10**9}}, "model_args.depth: no release has it"),
        ({"model_args": {"img_size": 10**6}}, "img_size"),
        ({"model_args": {"img_size": [224, 224]}}, "img_size: expected"),
        ({"model_args": {"patch_size": 0}}, "patch_size"),
        ({"model_args": [1]}, "model_args: expected"),
        ({"pretrained_cfg": None}, "pretrained_cfg: expected"),
        ({"pretrained_cfg": {"input_size": [3, 10**6, 10**6]}}, "input_size"),
        ({"pretrained_cfg": {"input_size": [10**9, 8, 8]}}, "input_size"),
        ({"pretrained_cfg": {"input_size": 224}}, "input_size"),
        ({"pretrained_cfg": {"mean": "0.5"}}, "mean"),
        ({"pretrained_cfg": {"std": [1, 1]}}, "std"),
    ],
    ids=str,
)
def test_what_no_release_asks_for(released: Path, change: dict, words: str):
    config = read_json(released / CONFIG, "it")
    for name, value in change.items():
        inner = config.get(name)
        config[name] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
    refuse(released, config, words)


def test_a_header_that_lies(released: Path, tmp_path: Path):
    config = read_json(released / CONFIG, "it")
    folder = copy_of(released, tmp_path / "copy")
    lies = json.dumps({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}).encode()
    for content, words in {
        struct.pack("<Q", 1 << 60) + b"{}": "a header of",
        struct.pack("<Q", len(lies)) + lies + bytes(4): "says that it holds 1e\\+18 numbers",
        b"": "a header of",
        struct.pack("<Q", 200_000) + b"[" * 200_000: "nested too deep|not JSON",
    }.items():
        (folder / WEIGHTS).write_bytes(content)
        refuse(folder, config, words)
