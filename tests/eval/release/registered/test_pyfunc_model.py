"""A registered release as MLflow's own functions see it."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import timm
import torch
from mlflow.exceptions import MlflowException
from PIL import Image
from released_runs import copy_of, write_run

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import examine
from eyespot.eval.release.layout import digest_of
from eyespot.eval.release.registered.pyfunc_model import RELEASE, _load_pyfunc, save_model
from eyespot.eval.release.registry import register, set_alias
from eyespot.pretrain.tracking.mirrors import sync
from eyespot.pretrain.tracking.tracker import Tracker

FRESH = """
import sys, numpy, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
numpy.save(sys.argv[2], model.predict([open(sys.argv[3], "rb").read()]))
"""


def jpegs(count: int) -> list[bytes]:
    dice = np.random.default_rng(0)
    found = []
    for place in range(count):
        file = io.BytesIO()
        Image.fromarray(dice.integers(0, 256, (40 + place, 50, 3), np.uint8)).save(file, "JPEG")
        found.append(file.getvalue())
    return found


def by_the_card(folder: Path, images: list[bytes]) -> np.ndarray:
    encoder = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(encoder))
    pixels = torch.stack([transform(Image.open(io.BytesIO(one)).convert("RGB")) for one in images])
    with torch.inference_mode():
        return encoder(pixels).numpy()


@pytest.fixture(scope="module")
def model(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("model") / "model"
    save_model(released, into)
    return into


def test_one_line_gives_what_the_card_promises(model: Path, released: Path):
    import mlflow.pyfunc

    images = jpegs(3)
    loaded = mlflow.pyfunc.load_model(str(model), model_config={"sha256": digest_of(released)})
    wanted = by_the_card(released, images)
    for given in (images, pandas.DataFrame({"image": images})):
        np.testing.assert_allclose(loaded.predict(given), wanted, rtol=1e-4, atol=1e-5)
    assert not [path for path in model.rglob("*") if path.suffix in (".pkl", ".py", ".lock", ".toml")]
    assert f"timm=={timm.__version__}" in (model / "requirements.txt").read_text()
    for none in (b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"):  # Pillow starts programs on EPS
        with pytest.raises((UserError, MlflowException), match="image 1: not an image of a known format"):
            loaded.predict([images[0], none])


def test_it_sees_the_pixels_that_packing_stores(released: Path):
    """Transparent parts have colours, which nobody sees; 16 bits are more than white."""
    dice = np.random.default_rng(0)
    logo, deep = io.BytesIO(), io.BytesIO()
    pixels = dice.integers(0, 256, (40, 50, 4), np.uint8)
    pixels[:, :25, 3] = 0
    Image.fromarray(pixels).save(logo, "PNG")
    Image.fromarray(dice.integers(0, 65_536, (40, 50), np.uint16)).save(deep, "PNG")
    given = [logo.getvalue(), deep.getvalue()]
    model = _load_pyfunc(str(released))
    rows, wanted = (
        model.predict(pandas.DataFrame({"image": files})) for files in (given, [examine(one).data for one in given])
    )
    np.testing.assert_array_equal(rows, wanted)


def test_another_release_is_refused(model: Path, other: Path, tmp_path: Path):
    """Whole in itself, but not what MLmodel says; and not what the caller knows."""
    import mlflow.pyfunc

    with pytest.raises(UserError, match="is another release"):
        mlflow.pyfunc.load_model(str(model), model_config={"sha256": "0" * 64})
    swapped = copy_of(model, tmp_path / "swapped")
    for path in other.iterdir():
        (swapped / RELEASE / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="is another release"):
        mlflow.pyfunc.load_model(str(swapped))


@pytest.mark.thorough
def test_from_the_registry_in_a_fresh_process(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run_dir, uri = write_run(tmp_path / "store" / "run"), f"sqlite:///{tmp_path}/store/mlflow.db"
    tracker = Tracker(run_dir, run_key="key", name="run", params={}, tags={}, uri="none")
    tracker.log(1, {"loss": 0.5})
    tracker.close("FINISHED")
    sync(run_dir, uri)
    set_alias(register(released, run_dir, "digits", uri), "production", uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (tmp_path / "image.jpg").write_bytes(jpegs(1)[0])
    words = ["models:/digits@production", str(tmp_path / "features.npy"), str(tmp_path / "image.jpg")]
    subprocess.run([sys.executable, "-c", FRESH, *words], check=True, timeout=200)
    wanted = by_the_card(released, jpegs(1))
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), wanted, rtol=1e-4, atol=1e-5)
