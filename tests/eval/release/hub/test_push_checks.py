"""What is known of a push before anything is written."""

from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.hub.push_checks import OLDEST_CLIENT, check_push

HERE = "hf://lab/digits"


def test_what_a_push_needs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "w" * 30)
    assert check_push(f"{HERE}@next", "v1").revision == "next"
    for address, tag, words in (
        (f"{HERE}@{'0' * 40}", None, "goes to a branch"),
        (f"{HERE}@refs/pr/1", None, "goes to a branch"),
        (HERE, "a..b", "git allows no"),
        ("lab/digits", None, "write it as"),
    ):
        with pytest.raises(UserError, match=words):
            check_push(address, tag)
    with monkeypatch.context() as old, pytest.raises(UserError, match=r'is 0\.36\.0; pip install "eyespot\[hub\]"'):
        old.setattr("huggingface_hub.__version__", "0.36.0")
        check_push(HERE)
    with monkeypatch.context() as offline, pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        check_push(HERE)


def test_the_extra_brings_the_client_that_is_asked_for():
    setup = (Path(__file__).parents[4] / "setup.py").read_text()
    assert f'HUB = ["huggingface_hub>={OLDEST_CLIENT}"]' in setup
