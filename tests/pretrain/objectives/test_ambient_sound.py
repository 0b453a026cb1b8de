"""Ambient sound against slow references in float64: which cluster is nearest, the loss; its clusters; its numbers."""

import math
from dataclasses import replace

import pytest
import torch

from eyespot.data_pipeline.augment.views import AudioView, Clip, RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch, noise_views
from eyespot.pretrain.losses.kmeans import agreement
from eyespot.pretrain.losses.sound_statistics import sound_statistics
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.ambient_sound import AmbientSound
from eyespot.pretrain.recipe_lookup import make_run

SIZE, SOUND = 32, AudioView(seconds=0.3, rate=8000, mels=12, window=256, hop=80)


def make(clusters: int = 3, of: int | None = None, **changes) -> AmbientSound:
    torch.manual_seed(0)
    config = AmbientSound.Config(num_clusters=clusters, sound=replace(SOUND, of=of), **changes)
    return config.build(make_encoder(EncoderConfig(name="test_resnet", image_size=SIZE)), SIZE).eval()


def sounds_of(kinds: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Spectrograms of kinds that differ in which bands are loud and how fast they change, whatever else they hold."""
    generator, (mels, columns) = torch.Generator().manual_seed(seed), SOUND.shape(())[1:]
    time, band = torch.arange(columns) / columns, torch.arange(mels)
    rate, loud = 2.0 ** (1 + kinds), (band[None] % 3 == kinds[:, None]).float()
    wave = torch.sin(2 * math.pi * (rate[:, None] * time + torch.rand(len(kinds), 1, generator=generator)))
    noise = torch.randn(len(kinds), mels, columns, generator=generator) / 20
    return (loud[:, :, None] * (0.5 + wave[:, None] / 4) + noise - 0.5)[:, None]


def test_clusters_are_kinds_of_sounds_also_of_those_that_were_not_there():
    method, kinds = make(), torch.arange(60) % 3
    assert set(method.cluster(sounds_of(kinds)).tolist()) == {0}, "before they are found"
    method.refresh(method.refresh_features(sounds_of(kinds)))
    assert agreement(method.cluster(sounds_of(kinds)).numpy(), kinds.numpy()) == pytest.approx(1)
    assert agreement(method.cluster(sounds_of(kinds, seed=1)).numpy(), kinds.numpy()) == pytest.approx(1)


def test_loss_and_clusters_equal_the_slow_reference():
    method, kinds = make(), torch.arange(24) % 3
    method.refresh(method.refresh_features(sounds_of(kinds)))
    method = method.double()
    views = noise_views(method.views(), 6, generator=torch.Generator().manual_seed(1))
    views[1] = sounds_of(torch.tensor([2, 0, 1, 1, 0, 2]), seed=3)
    ids = torch.arange(6)
    batch = Batch(views=[each.double() for each in views], ids=ids, epochs=ids * 0, labels=ids, seed=0)
    every = sound_statistics(sounds_of(kinds)).double()
    clusters = method.cluster(sounds_of(kinds).double())
    losses, right = [], 0
    for image, sound in zip(*batch.views, strict=True):
        found, distances = sound_statistics(sound[None])[0], []
        for cluster in range(3):
            members, distance, at = every[clusters == cluster], 0.0, 0
            for count in method.kinds.values():
                for n in range(at, at + count):
                    spread = every[:, n].std(correction=0)
                    distance += ((found[n] - members[:, n].mean()) / spread).item() ** 2 / count if spread > 1e-5 else 0
                at += count
            distances.append(distance)
        answer = distances.index(min(distances))
        logits = method.head.weight @ method.encoder(image[None])[0] + method.head.bias
        losses.append(-torch.log(torch.exp(logits[answer]) / torch.exp(logits).sum()))
        right += int(logits.argmax() == answer)
    result = method(batch)
    slow = torch.stack(losses).mean()
    assert result["loss"].item() == pytest.approx(slow.item(), rel=1e-12)
    assert result["accuracy"].item() == pytest.approx(right / 6)
    parameters = [p for p in method.parameters() if p.requires_grad]
    pairs = zip(torch.autograd.grad(result["loss"], parameters), torch.autograd.grad(slow, parameters), strict=True)
    assert max((ours - theirs).abs().max().item() for ours, theirs in pairs) <= 1e-10


def test_all_kinds_of_statistics_weigh_alike():
    method, kinds = make(), torch.arange(60) % 3
    features = method.refresh_features(sounds_of(kinds))
    method.refresh(features)
    rows, sums, at = (features - method.middle) * method.weight, [], 0
    for count in method.kinds.values():
        sums.append(rows[:, at : at + count].square().sum().item() / len(rows))
        at += count
    assert sums == pytest.approx([1.0] * 4, rel=1e-3)


def test_sounds_that_are_all_alike_are_clusters_too():
    method = make()
    method.refresh(method.refresh_features(torch.full((9, *SOUND.shape(())), -1.0)))
    assert all(buffer.isfinite().all() for buffer in method.buffers())


def test_what_cannot_be_clustered_is_refused():
    make().prepare(torch.arange(3))
    with pytest.raises(UserError, match=r"objective\.num_clusters 3: more than the 2 sounds; lower it"):
        make().prepare(torch.arange(2))
    with pytest.raises(UserError, match=r"objective\.cluster_samples 20: fewer than objective\.num_clusters 30; raise"):
        make(clusters=30, cluster_samples=20)
    with pytest.raises(UserError, match=r"objective\.view\.clip\.frames 2: .* set it to 1"):
        make(view=RandomView(clip=Clip(2)))
    with pytest.raises(UserError, match=r"objective\.sound\.hop 2401: of 0\.3 seconds it .*; set it to 2400 or less"):
        AmbientSound.Config(sound=replace(SOUND, hop=2401))
    assert AmbientSound.Config(sound=replace(SOUND, hop=2400)).build(make().encoder, SIZE).kinds["modulation"] == 12
    with pytest.raises(UserError, match=r"objective\.sound\.of None: .* set it to 0"):
        make(view=RandomView(clip=Clip(1)))


def test_the_whole_of_what_is_clustered_draws_nothing():
    method = make(of=0, view=RandomView(clip=Clip(1)))
    assert method.refresh_view.place == "center" and method.refresh_view.of is None
    assert method.refresh_epochs == math.inf and method.refresh_samples == 100_000


def test_the_recipe_has_the_papers_numbers():
    run = make_run("ambient_sound_r18_flickr")
    config = run.objective
    assert (config.num_clusters, config.sound.seconds, config.sound.mels, config.sound.of) == (30, 3.75, 32, 0)
    assert (config.view.clip, run.data.batch_size, run.steps) == (Clip(1), 256, 320_000)
