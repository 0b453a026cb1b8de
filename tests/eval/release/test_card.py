"""The model card says what the run folder knows."""

import re
from pathlib import Path

from released_runs import small_run, write_release

from eyespot.pretrain.networks.encoders import EncoderConfig


def test_what_the_card_says(released: Path):
    card = (released / "README.md").read_text()
    for said in (
        "license: apache-2.0\nlibrary_name: timm",
        "`test_vit` with 254,784 parameters, for images of 16 × 16 pixels",
        'timm.create_model("local-dir:FOLDER", pretrained=True)',
        "| knn | digits | accuracy | 90.00% | 60.00% to 98.00% | 50.00% |",
        "knn: `knn/k20_T0.07_cls_l2`, cls, k 20, 10 test images (train and test)",
        f"manifest sha256 `{'d' * 64}`",
        "12 of 12 steps, 3,072 samples seen",
        "An Engine, 2 processes",
        "eyespot 0.1.0, commit c0ffee\n",
        "<https://arxiv.org/abs/2111.06377>",
        "not seen in training",
    ):
        assert said in card, said
    assert not re.search(r"\{\w*\}|[^\[]None|\bnan\b", card)
    assert max(map(len, re.sub(r"(?m)^[|-].*", "", card).splitlines())) <= 130


def test_a_run_that_was_not_at_its_end_and_a_convolutional_encoder(tmp_path: Path):
    run = small_run(tmp_path / "a-run", "simclr_tiny", EncoderConfig(name="test_resnet", image_size=32))
    run.steps = 1000
    card = (write_release(tmp_path / "a", run=run) / "README.md").read_text()
    assert "12 of 1,000 steps" in card and "The run was not at its end" in card
    assert "the average over the image" in card and "num_prefix_tokens" not in card
