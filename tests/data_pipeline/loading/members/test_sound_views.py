"""Spectrograms against a slow reference; the seconds that are shown are a pure function of (seed, epoch, sample)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from shapes import levels
from streams import global_stream, take

from eyespot.data_pipeline.augment.clip_frames import frame_numbers, partner_ids
from eyespot.data_pipeline.augment.views import AudioView, Clip, RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader, make_selection
from eyespot.data_pipeline.loading.members.sound_views import heard, log_mel, mel_triangles, see_sounds
from eyespot.data_pipeline.shards.manifest import Reading
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.verify import verify

VIEW = AudioView(seconds=0.25, rate=8000, mels=20, window=200, hop=80)


def tone(hertz: float, seconds: float, rate: int) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32) / 2


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Sixteen images, each with its tone, at two rates, mono and stereo; sample 3 has none, that of 4 is short."""
    root = tmp_path_factory.mktemp("sound")
    (root / "in").mkdir()
    for number in range(16):
        Image.fromarray(levels(16, 16, 3)).save(root / "in" / f"{number:02d}.png")
        rate = (8000, 22_050)[number % 2]
        wave = tone(300 + 100 * number, 0.1 if number == 4 else 0.6, rate)
        if number != 3:
            stereo = np.stack([wave, wave], 1) if number % 3 else wave
            soundfile.write(root / "in" / f"{number:02d}.flac", stereo, rate)
    soundfile.write(root / "in" / "03.wav", tone(300, 0.5, 8000), 8000)
    pack(str(root / "in"), root / "shards", workers=1)
    return root / "shards"


def spec(shards: Path, *views, **changes) -> LoaderSpec:
    every = (RandomView(size=12), VIEW, RandomView(size=8, partner=True), AudioView(partner=True))
    asked = ViewSpec(views=views or every)
    defaults = dict(shards=ShardFolder(shards), views=asked, batch_size=4, num_threads=2, max_bad_fraction=0.5)
    return LoaderSpec(**{**defaults, **changes})


def test_one_kind_is_packed_and_the_rest_counted(shards):
    manifest = ShardFolder(shards).manifest
    assert {name: told.count for name, told in manifest.members.items()} == {"flac": 15}
    assert [one.reason for one in manifest.skipped] == ["a sound of another kind than most (.wav, not .flac)"]
    assert verify(shards) == []


def test_a_spectrogram_is_what_the_formula_says():
    """Each column by a sum over samples, in float64."""
    wave = torch.randn(VIEW.num_samples, dtype=torch.float64)
    padded = torch.nn.functional.pad(wave, (VIEW.window // 2, VIEW.window // 2)).numpy()
    n, k = np.arange(VIEW.window), np.arange(VIEW.window // 2 + 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / VIEW.window)
    waves = np.exp(-2j * np.pi * np.outer(n, k) / VIEW.window)
    columns = [padded[at : at + VIEW.window] * window @ waves for at in range(0, VIEW.num_samples + 1, VIEW.hop)]
    power = mel_triangles(8000, 200, 20).numpy() @ (np.abs(np.stack(columns, 1)) / window.sum()) ** 2
    expected = 10 * np.log10(np.maximum(power, 1e-8)) / 40 + 1
    found = log_mel(wave, VIEW)
    assert found.shape == VIEW.shape(())[1:] and np.abs(found.numpy() - expected).max() < 1e-10
    assert (log_mel(torch.zeros(VIEW.num_samples), VIEW) == -1).all(), "silence"


def test_mel_triangles_overlap_by_half():
    found = mel_triangles(16_000, 400, 40).numpy()
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42) / 2595) - 1)
    inside = (np.linspace(0, 8000, 201) > corners[1]) & (np.linspace(0, 8000, 201) < corners[-2])
    assert np.allclose(found.sum(0)[inside], 1) and found.min() == 0 and found.max() <= 1


def test_tones_are_where_they_belong_at_any_rate_and_however_many_channels(shards):
    view = AudioView(seconds=0.25, rate=8000, mels=40, window=512, hop=80)
    (batch,) = take(make_selection(spec(shards, RandomView(size=8), view, batch_size=16), np.arange(16)), 1)
    loudest = batch.views[1][:, 0, :, 4].argmax(1)
    triangles = mel_triangles(8000, 512, 40)
    sources = {}
    for number in range(16):
        hertz = 300 + 100 * number
        sources[int(triangles[:, round(hertz * 512 / 8000)].argmax())] = number
    assert len(set(loudest.tolist())) >= 10
    assert all(min(abs(row - peak) for peak in sources) <= 1 for row in loudest.tolist())
    peaks = batch.views[1].amax((1, 2, 3))
    assert (peaks > 0.5).all(), "half of full scale, in all channels"


def test_short_sounds_are_followed_by_silence_and_long_ones_are_cut(tmp_path):
    for seconds, place in ((0.1, "random"), (0.6, "center"), (0.6, "random")):
        soundfile.write(tmp_path / "a.wav", tone(500, seconds, 8000), 8000, subtype="FLOAT")
        file = bytearray((tmp_path / "a.wav").read_bytes())
        view = AudioView(seconds=0.25, rate=8000, mels=20, window=200, hop=80, place=place)
        found = heard(file, view, np.uint32(2**31))
        wave = tone(500, seconds, 8000)
        start = 0 if seconds < 0.25 else (len(wave) - 2000) // 2
        assert np.array_equal(found[: len(wave)], wave[start : start + 2000]) and not found[len(wave) :].any()


def test_it_does_not_depend_on_ranks_or_batches_and_goes_on(shards):
    alone = global_stream(spec(shards), 1, 6)
    assert global_stream(spec(shards, batch_size=8, num_threads=1), 2, 3) == alone
    loader = make_loader(spec(shards))
    assert [tuple(view.shape[1:]) for view in next(loader).views] == spec(shards).views.shapes()
    state = loader.state_dict()
    rest = take(loader, 2)
    for one, two in zip(rest, take(make_loader(spec(shards), state=state), 2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.views, two.views, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": 0.001, "rate": 1000},
        {"seconds": 0.0205},
        {"rate": 384_000, "seconds": 0.01},
        {"mels": 1},
        {"mels": 101},
        {"window": 2, "mels": 2},
        {"window": 4000},
        {"window": 65_536, "mels": 1, "seconds": 0.5},
        {"hop": 1, "seconds": 0.05},
        {"hop": 2000},
        {"hop": 16_777_216},
    ],
    ids=str,
)
def test_at_the_limits_of_each_field_a_spectrogram_has_the_views_shape(changes):
    view = AudioView(**{"seconds": 0.25, "rate": 8000, "mels": 20, "window": 200, "hop": 80, **changes})
    found = log_mel(torch.randn(view.num_samples), view)
    assert (1, *found.shape) == view.shape(()) and found.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 401}, r"window 401: must be even; try 402"),
        ({"window": 65_538}, r"window 65538: must lie between 2 and 65536"),
        ({"hop": 0}, r"hop 0: must lie between 1 and 16777216"),
        ({"mels": 0}, r"mels 0: must be 1 or more"),
        ({"mels": 202}, r"mels 202: a window of 400 has 201 frequencies; lower it"),
        ({"seconds": 0.00001}, r"seconds 1e-05: less than a sample at rate 16000; raise it"),
    ],
)
def test_beyond_them_it_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        AudioView(**changes)


def test_what_cannot_be_heard_is_refused(tmp_path, digit_shards):
    with pytest.raises(UserError, match="have no sounds beside their images; pack images with theirs"):
        make_loader(spec(digit_shards))
    with pytest.raises(UserError, match=r"mels 80: a window of 100 has 51 frequencies; lower it"):
        AudioView(window=100)
    ids, out = np.zeros(1, np.int64), np.zeros((1, *VIEW.shape(())), np.float32)
    with pytest.raises(RuntimeError, match="its sound cannot be decoded"):
        see_sounds([bytearray(b"RIFF")], VIEW, "view0", 0, ids, ids, None, out, slice(0, 1))


def pack_films(folder: Path, rate: float | None = 4.0) -> ShardFolder:
    """Six films of five to ten frames, a quarter of a second each, in which every frame has a tone of its own."""
    for film in range(6):
        place, frames = folder / "in" / f"v{film}", range(5 + film)
        place.mkdir(parents=True)
        for frame in frames:
            Image.fromarray(levels(16, 16, 3)).save(place / f"{frame:03d}.png")
        soundfile.write(place / "sound.wav", np.concatenate([tone(300 + 200 * f, 0.25, 8000) for f in frames]), 8000)
    pack(str(folder / "in"), folder / "out", reading=Reading(frames="folder", rate=rate), workers=1)
    return ShardFolder(folder / "out")


def test_the_sound_of_a_clip_begins_with_its_first_frame_also_a_partners(tmp_path):
    films, clip = pack_films(tmp_path), Clip(2, stride=2)
    assert films.manifest.members["wav"].count == 6 and verify(films.path) == []
    view = AudioView(seconds=0.25, rate=8000, mels=60, window=512, hop=80, of=1)
    views = ViewSpec(views=(AudioView(seconds=0.3), RandomView(size=8, clip=clip), view, replace(view, partner=True)))
    batches = take(make_loader(LoaderSpec(shards=films, views=views, batch_size=6, num_threads=2)), 4)
    ids, epochs = (torch.cat([getattr(each, name) for each in batches]).numpy() for name in ("ids", "epochs"))
    triangles = mel_triangles(8000, 512, 60)
    for number, samples in ((2, ids), (3, partner_ids(0, epochs, ids, 6))):
        counts = films.clips["count"][samples, 0]
        first = frame_numbers(clip, 0, epochs, samples, counts)[:, 0]
        assert len(set(first.tolist())) > 3
        expected = [int(triangles[:, round((300 + 200 * frame) * 512 / 8000)].argmax()) for frame in first.tolist()]
        loudest = torch.cat([each.views[number][:, 0, :, 10] for each in batches]).argmax(1).tolist()
        assert all(abs(one - other) <= 1 for one, other in zip(loudest, expected, strict=True))


def test_of_a_frame_near_the_end_the_last_seconds_are_heard(tmp_path):
    wave = tone(500, 0.6, 8000)
    soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="FLOAT")
    file, view = bytearray((tmp_path / "a.wav").read_bytes()), replace(VIEW, of=0)
    for begin, start in ((0.1, 800), (0.35, 2800), (0.45, 2800), (0.6, 2800), (9.0, 2800)):
        assert np.array_equal(heard(file, view, np.uint32(0), begin), wave[start : start + 2000]), begin
    longer = heard(file, replace(view, seconds=1.0), np.uint32(0), 0.5)
    assert np.array_equal(longer[: len(wave)], wave) and not longer[len(wave) :].any(), "all of a shorter one"
    soundfile.write(tmp_path / "a.wav", tone(500, 0.6, 22_050), 22_050, subtype="FLOAT")
    other = heard(bytearray((tmp_path / "a.wav").read_bytes()), view, np.uint32(0), 0.59)
    assert np.abs(other[-200:]).max() > 0.4, "at another rate, too"


def test_sound_of_a_clip_is_refused_where_nothing_says_when_it_is(tmp_path):
    films = pack_films(tmp_path, rate=None)
    views = ViewSpec(views=(RandomView(size=8, clip=Clip(1)), AudioView(of=0)))
    with pytest.raises(UserError, match=r"views\[1\]\.of 0: the frame rate of 6 of 6 videos .* --rate"):
        make_loader(LoaderSpec(shards=films, views=views, batch_size=2))
    for of, shown in ((0, RandomView()), (1, RandomView(clip=Clip(2)))):
        with pytest.raises(UserError, match=rf"views\[1\]\.of {of}: is no view of a clip; leave it out"):
            ViewSpec(views=(shown, AudioView(of=of)))
