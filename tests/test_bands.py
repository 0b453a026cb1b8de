"""Images of six bands and 16 bits, from files to features: packed, loaded to the bit, learned from, released."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from banded import COUNT, SIDE, scene, write_folder, written
from PIL import Image

from eyespot.cluster.cli import main
from eyespot.data_pipeline.augment.pipeline import alter, view_alteration
from eyespot.data_pipeline.augment.views import CenterView, RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader, make_pass
from eyespot.data_pipeline.shards.bands.stored_bands import Bands
from eyespot.data_pipeline.shards.manifest import BANDS_FORMAT, Reading
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.verify import look_at
from eyespot.eval.checkpoint_choice.choice import select
from eyespot.eval.evaluate import judge
from eyespot.eval.release.verify import verified
from eyespot.eval.release.write import release
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.images.image_grid import as_seen, shown_bands
from eyespot.pretrain.loop.first_checks import before_folder
from eyespot.pretrain.networks.encoders import EncoderConfig, encode, make_encoder
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.trainer import fit

ALONE = process_group.World(rank=0, size=1, device=torch.device("cpu"))
SIX = Bands(count=COUNT)
ENCODER = EncoderConfig(name="test_vit", image_size=32, patch_size=8, channels=COUNT)
MIDDLE = CenterView(resize=SIDE, size=SIDE)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bands")
    pack(str(write_folder(folder / "source")), folder / "shards", reading=Reading(bands=SIX), holdout=0.25, workers=1)
    return folder / "shards"


def small_run(recipe: str, shards: Path, run_dir: Path) -> Run:
    """Three steps on a ViT of six channels, each method with views that bands can take."""
    run = make_run(recipe)
    run.encoder, run.run_dir, run.steps = replace(ENCODER), run_dir, 3
    run.data = replace(run.data, shards=str(shards), batch_size=8, num_threads=1)
    run.picture_every = run.save_every = 3
    run.log_every, run.track, run.device, run.precision = 1, False, "cpu", "fp32"
    for name in ("view", "first", "second", "small"):
        if hasattr(run.objective, name):
            view = getattr(run.objective, name)
            size = 16 if name == "small" else 0
            plain = replace(view, size=size, jitter=(0.4, 0.4, 0.0, 0.0), grayscale=0.0, solarize=0.0, blur=0.0)
            setattr(run.objective, name, plain)
    return run


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = small_run("mae_tiny", shards, tmp_path_factory.mktemp("run") / "mae")
    assert fit(run, "mae_tiny") == "done"
    return run.run_dir


def middles(shards: Path, mean: tuple[float, ...], std: tuple[float, ...]) -> list[np.ndarray]:
    """What the centre crop of each training image says that its values were."""
    spec = ViewSpec(views=(MIDDLE,), mean=mean, std=std)
    loader = make_pass(LoaderSpec(shards=ShardFolder(shards / "train"), views=spec, batch_size=5))
    views = torch.cat([batch.views[0].clone() for batch in loader]).double()
    of_mean, of_std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
    values = ((views * of_std + of_mean) * 65_535).round()
    return list(values.permute(0, 2, 3, 1).numpy().astype(np.uint16))


def test_all_16_bits_come_out_of_the_loader(shards: Path):
    stats = ShardFolder(shards / "train").manifest.image_stats
    went_in = {scene(number, brighter=bool(number % 2))[:, 2:42].tobytes() for number in range(24)}
    for mean, std in (((0.0,) * COUNT, (1.0,) * COUNT), (stats.mean, stats.std)):
        came_out = {view.tobytes() for view in middles(shards, mean, std)}
        assert len(came_out) == 18 and went_in.issuperset(came_out)


def test_statistics_are_each_bands_own_and_older_versions_refuse_the_manifest(shards: Path):
    manifest = json.loads((shards / "train" / "manifest.json").read_text())
    assert manifest["bands"] == {"count": 6, "bits": 16} and manifest["format"] == BANDS_FORMAT
    held = {view.tobytes() for view in middles(shards, (0.0,) * COUNT, (1.0,) * COUNT)}
    scenes = [scene(number, brighter=bool(number % 2)) for number in range(24)]
    values = np.concatenate([each.reshape(-1, COUNT) for each in scenes if each[:, 2:42].tobytes() in held]) / 65_535
    assert len(values) == 18 * 40 * 44
    assert np.allclose(manifest["image_stats"]["mean"], values.mean(0), rtol=1e-12)
    assert np.allclose(manifest["image_stats"]["std"], values.std(0), rtol=1e-9)


def test_verify_finds_all_well_and_index_writes_the_same(shards: Path):
    assert look_at(shards, 1).problems == []
    before = (shards / "train" / "manifest.json").read_bytes()
    assert main(["shards", "index", str(shards / "train"), "--workers", "1"]) == 0
    assert (shards / "train" / "manifest.json").read_bytes() == before


def test_what_has_other_bands_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = write_folder(tmp_path / "source", 3)
    np.save(source / "a" / "five.npy", scene(0)[..., :5])
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(source / "a" / "photo.jpg")
    assert main(["shards", "pack", str(source), str(tmp_path / "out"), "--bands", "6", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "3 images" in said and "5 bands, where --bands 6 asks for 6: a/five.npy" in said
    assert "JPEG: its bits are lost already; pack such images without --bands: a/photo.jpg" in said
    more = write_folder(tmp_path / "more", 8)
    assert main(["shards", "add", str(tmp_path / "out"), str(more), "--workers", "1"]) == 0
    assert ShardFolder(tmp_path / "out").manifest.num_samples == 8
    assert look_at(tmp_path / "out", 1).problems == []
    assert main(["shards", "add", str(tmp_path / "out"), str(more), "--bands", "6", "--bits", "8"]) == 2
    assert "hold images of 6 bands of 16 bits, and 6 bands of 8 bits are added" in capsys.readouterr().err


def test_without_bands_a_folder_is_packed_as_ever_and_says_what_was_lost(tmp_path: Path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    Image.fromarray(scene(0)[..., 0]).save(source / "gray.png")
    (source / "six.tif").write_bytes(written(scene(0))["gdal.tif"])
    (source / "six.npy").write_bytes(written(scene(0))["array.npy"])
    assert main(["shards", "pack", str(source), str(tmp_path / "out"), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "of 16 bits 8 were kept; all are with --bands" in said
    assert "a TIFF of several bands is packed with --bands: six.tif" in said
    assert "packed as bands, with --bands: six.npy" in said
    assert "bands" not in json.loads((tmp_path / "out" / "manifest.json").read_text())


def test_steps_of_views_treat_each_band_alike():
    view = RandomView(size=24, jitter=(0.4, 0.4, 0.0, 0.0), jitter_probability=1.0, noise=1.0, erase=1.0)
    ids = np.arange(4)
    images = torch.rand(4, 5, 24, 24, generator=torch.Generator().manual_seed(0)) * 255
    there = images.clone()
    alteration = view_alteration(view, "view0", 0, np.zeros_like(ids), ids)
    assert alteration is not None
    alter(there, alteration)
    for band in range(5):
        alone = images[:, [band]].clone()
        alter(alone, alteration)
        assert torch.equal(there[:, [band]], alone)
    assert not torch.equal(there, images)
    for row in range(4):
        one = images[[row]].clone()
        alter(one, alteration.rows(np.array([row])))
        assert torch.equal(one[0], there[row]), "in whatever batch"


def test_views_of_colours_are_refused_where_there_are_none(shards: Path):
    spec = ViewSpec(views=(RandomView(size=16, grayscale=0.2),), mean=(0.5,) * COUNT, std=(1.0,) * COUNT)
    train = ShardFolder(shards / "train")
    with pytest.raises(UserError, match=r"views\[0\] of 6 bands of 16 bits: .* set grayscale 0$"):
        make_loader(LoaderSpec(shards=train, views=spec, batch_size=4))
    with pytest.raises(UserError, match="hold images of 6 bands of 16 bits, and mean and std are of 3"):
        make_loader(LoaderSpec(shards=train, views=ViewSpec(views=(RandomView(size=16),)), batch_size=4))


@pytest.mark.parametrize("recipe", ["simclr_tiny", "dino_tiny"])
def test_methods_learn_from_bands(recipe: str, shards: Path, tmp_path: Path):
    run = small_run(recipe, shards, tmp_path / "run")
    assert fit(run, recipe) == "done"
    lines = [json.loads(line) for line in (run.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert list(run.run_dir.glob("**/*.png"))


def test_what_does_not_fit_is_said_in_a_line(shards: Path, tmp_path: Path):
    run = small_run("simclr_tiny", shards, tmp_path / "run")
    run.objective.view = replace(run.objective.view, grayscale=0.2)
    with pytest.raises(UserError, match=r"^objective.view: of 6 bands .* set objective.view.grayscale 0$"):
        fit(run, "simclr_tiny")
    run = small_run("mae_tiny", shards, tmp_path / "run")
    run.encoder.channels = 3
    with pytest.raises(UserError, match=r"^encoder.channels 3: .* holds images of 6 bands of 16 bits; set it to 6$"):
        fit(run, "mae_tiny")
    run = small_run("rotation_tiny", shards, tmp_path / "run")
    with pytest.raises(UserError, match=r"^Rotation is made for red, green and blue"):
        fit(run, "rotation_tiny")
    run = small_run("inpainting_tiny", shards, tmp_path / "run")
    run.encoder = replace(run.encoder, name="test_resnet", patch_size=None)  # with which it cannot be made for six
    with pytest.raises(UserError, match=r"^Inpainting is made for red, green and blue.* mae, simclr or dino"):
        before_folder(run, ALONE, None)


def test_a_run_of_bands_is_judged_and_its_release_loads_by_timm(trained: Path, shards: Path, tmp_path: Path):
    results = judge("knn", str(trained), shards, out=None, seed=0, pretrained=False, world=ALONE)
    assert [result.role for result in results] == ["encoder", "random", "pixels"]
    assert select(str(trained), shards, num_images=12, seed=0, world=ALONE, out=tmp_path / "scores") is not None
    folder = release(trained, tmp_path / "release", license="apache-2.0", allow_dirty=True)
    verified(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_args"]["in_chans"] == 6 and config["pretrained_cfg"]["input_size"] == [6, 32, 32]
    stats = ShardFolder(shards / "train").manifest.image_stats
    assert tuple(config["pretrained_cfg"]["mean"]) == stats.mean and tuple(config["pretrained_cfg"]["std"]) == stats.std
    encoder = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert encoder.patch_embed.proj.in_channels == 6
    again = judge("knn", str(folder), shards, out=tmp_path, seed=0, pretrained=False, world=ALONE)
    assert again[0].all_scores() == results[0].all_scores()


def test_weights_of_rgb_go_on_with_six_bands(shards: Path, tmp_path: Path):
    from safetensors.torch import save_file

    from eyespot.pretrain.loop.initial_weights import first_objective

    rgb = make_encoder(replace(ENCODER, channels=3))
    save_file(rgb.state_dict(), tmp_path / "rgb.safetensors")
    run = small_run("mae_tiny", shards, tmp_path / "run")
    run.start.weights = tmp_path / "rgb.safetensors"
    encoder = first_objective(run, torch.arange(18)).encoder
    images = torch.randn(2, 3, 32, 32)
    seen = (encode(model.eval(), view)["cls"] for model, view in ((encoder, images.repeat(1, 2, 1, 1)), (rgb, images)))
    assert torch.allclose(*seen, atol=1e-5), "the same picture twice is the picture"


def test_three_bands_are_shown_and_named():
    spec = ViewSpec(views=(MIDDLE,), mean=(0.1,) * COUNT, std=(0.2,) * COUNT)
    images = torch.linspace(-3, 3, 6)[:, None, None].expand(6, 2, 2)
    assert torch.equal(as_seen(images[None], spec)[0, :, 0, 0], (images[:3, 0, 0] / 4 + 0.5).clamp(0, 1))
    assert shown_bands(6).startswith("bands 1, 2 and 3 of 6") and shown_bands(1).startswith("band 1 as gray")
    assert as_seen(torch.zeros(1, 1, 2, 2), replace(spec, mean=(0.1,), std=(0.2,))).shape == (1, 3, 2, 2)


def test_show_draws_bands(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "views.png"
    assert main(["shards", "show", str(shards), "--recipe", "mae_tiny", "--out", str(out), "--samples", "2"]) == 0
    assert "shown are bands 1, 2 and 3 of 6" in capsys.readouterr().out
    assert Image.open(out).mode == "RGB"
