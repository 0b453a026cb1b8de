"""The sound tower of a run is judged by sounds; its features are the tower's own, whatever the images are."""

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from captioned import pack_named_digits
from left_runs import leave_run, small_run

from eyespot.cluster.cli import main
from eyespot.data_pipeline.augment.views import AudioView, CenterView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.loading.sample_files import complete_samples
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders import feature_cache
from eyespot.eval.encoders.feature_cache import features_of
from eyespot.eval.encoders.run_objectives import objectives_of
from eyespot.eval.encoders.sound_tower import sound_subjects
from eyespot.eval.evaluate import judge
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.encoders import features

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def heard(tmp_path_factory) -> tuple[Path, Path]:
    """Digits with the tone of their class, and a run as training leaves it."""
    folder = tmp_path_factory.mktemp("heard")
    shards, run = pack_named_digits(folder, 100), small_run("audio_visual_tiny")
    run.data.shards = str(shards)
    return leave_run(run, "audio_visual_tiny", folder / "run", shards), shards


def test_features_are_those_of_the_middle_of_each_sound(heard, tmp_path):
    run_dir, shards = heard[0], ShardFolder(heard[1])
    trained, untrained, raw = sound_subjects(str(run_dir), 0)
    assert [each.role for each in (trained, untrained, raw)] == ["encoder", "random", "pixels"]
    own = objectives_of(str(run_dir), 0, lambda objective: True)
    sound = own.run.objective.sound
    view = AudioView(
        seconds=sound.seconds, rate=sound.rate, mels=32, window=sound.window, hop=sound.hop, place="center"
    )
    spec = LoaderSpec(shards=shards, views=ViewSpec(views=(CenterView(resize=9, size=9), view)), batch_size=100)
    with closing(make_pass(spec)) as batches, torch.inference_mode():
        (batch,) = batches
        expected = features(own.trained.sound.eval(), batch.views[1])
    found = features_of(trained, shards, tmp_path, ALONE)
    assert list(found) == ["sound"] and np.allclose(found["sound"], expected.numpy(), atol=1e-5)
    assert not np.allclose(features_of(untrained, shards, tmp_path, ALONE)["sound"], expected.numpy(), atol=1e-2)
    assert features_of(raw, shards, tmp_path, ALONE)["spectrogram"].shape == (100, 18 * 18)


def test_a_linear_probe_tells_tones_apart_beside_its_baselines(heard):
    run_dir, shards = heard
    assert main(["eval", "linear", str(run_dir), str(shards), "--tower", "sound", "--device", "cpu"]) == 0
    results = judge("linear", str(run_dir), shards, out=None, seed=0, pretrained=False, world=ALONE, tower="sound")
    assert [result.role for result in results] == ["encoder", "random", "pixels"]
    assert all(result.data.endswith(" by its sounds") for result in results)
    assert results[2].accuracy > 0.9, "ten tones"


def test_samples_without_sound_are_left_out_named_and_counted(heard, tmp_path, monkeypatch):
    run_dir, whole = heard
    (first, *others) = sorted((whole.parent / "source").rglob("*.wav"))
    silent = [first, *others[30:34], *others[80:]]
    shutil.copytree(whole.parent / "source", tmp_path / "source")
    for file in silent:
        (tmp_path / "source" / file.relative_to(whole.parent / "source")).unlink()
    pack(str(tmp_path / "source"), tmp_path / "shards", workers=1)
    shards = ShardFolder(tmp_path / "shards")
    trained, *_ = sound_subjects(str(run_dir), 0)
    having = complete_samples(trained.views, shards)
    assert len(having) == 100 - len(silent)
    expected = features_of(trained, ShardFolder(whole), tmp_path / "one", ALONE)["sound"]
    monkeypatch.setattr(feature_cache, "BLOCK", 8)
    found = features_of(trained, shards, tmp_path / "two", ALONE)["sound"]
    assert np.allclose(found[having], expected[having], atol=1e-5)
    assert not found[np.setdiff1d(np.arange(100), having)].any()
    known = dict(out=tmp_path, seed=0, pretrained=False, world=ALONE, tower="sound")
    results = judge("knn", str(run_dir), shards.path, **known)
    assert all(one.num_train + one.num_test == len(having) for one in results)
    assert all(f"; {len(silent)} of 100 without .wav left out" in one.split for one in results)


def test_who_has_no_sound_tower_is_refused(heard, run_dir):
    for target in (str(run_dir), "test_vit"):
        with pytest.raises(UserError, match=r"^--tower sound: .* is no run of a method with a sound tower"):
            sound_subjects(target, 0)
    assert main(["eval", "layers", str(heard[0]), str(heard[1]), "--tower", "sound"]) == 2
