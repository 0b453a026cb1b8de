"""Only a release is served that verifies."""

import shutil
from pathlib import Path

import pytest

from eyespot.cluster.serving import releases
from eyespot.cluster.serving.releases import served
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.layout import digest_of


def test_one_from_elsewhere_is_verified_once(release: Path, monkeypatch: pytest.MonkeyPatch):
    seen = list[Path]()
    monkeypatch.setattr(releases, "remote", lambda _: (release, {}))  # whose promise it is
    monkeypatch.setattr(releases, "verified", seen.append)
    assert served("models:/digits/1", digest_of(release), "cpu")[2]["sha256"] == digest_of(release) and not seen
    served(str(release), None, "cpu")
    assert seen == [release]


def test_served(release: Path, tmp_path: Path):
    encoder, views, about = served(str(release), digest_of(release).upper(), "cpu")
    assert about["sha256"] == digest_of(release) and about["kinds"] == {"cls": 64, "mean": 64}
    assert not encoder.training and views.images[0].size == about["image_size"] == 16
    with pytest.raises(UserError, match="it is another one"):
        served(str(release), "0" * 64, "cpu")
    with pytest.raises(UserError, match="no such folder"):
        served(str(tmp_path / "none"), None, "cpu")
    damaged = shutil.copytree(release, tmp_path / "damaged")
    with (damaged / "README.md").open("a") as file:
        file.write("!")
    with pytest.raises(UserError, match=r"README\.md is damaged"):
        served(str(damaged), None, "cpu")
