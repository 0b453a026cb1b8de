"""All three forms against slow, obvious references in float64, pair by pair; what they are asked; their numbers."""

import math
from dataclasses import replace

import pytest
import torch
from image_text_runs import engine_gradients, shares
from torch import Tensor

from eyespot.data_pipeline.augment.views import AudioView, Clip, RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch, noise_views
from eyespot.data_pipeline.loading.members.sound_views import mel_triangles
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.objectives.audio_visual import AudioVisual
from eyespot.pretrain.recipe_lookup import make_run

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
COUNT, SIZE = 6, 32
SOUND = AudioView(seconds=0.3, rate=8000, mels=32, window=256, hop=80)
FORMS = ("contrastive", "correspondence", "distance")


def make(form: str, of: int | None = None, **changes) -> tuple[Objective, Batch]:
    torch.manual_seed(0)
    sound = replace(SOUND, of=of)
    config = AudioVisual.Config(form=form, out_dim=7, sound_encoder="test_resnet", sound=sound, **changes)
    objective = config.build(make_encoder(EncoderConfig(name="test_resnet", image_size=SIZE)), SIZE).double().eval()
    views = noise_views(objective.views(), COUNT, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([0, 1, 2, 1, 4, 5])
    batch = Batch(views=[each.double() for each in views], ids=ids, epochs=ids * 0, labels=ids, seed=0)
    return objective, batch


def two_layers(layers, x: Tensor) -> Tensor:
    hidden = layers[0].weight @ x + layers[0].bias
    return layers[2].weight @ torch.where(hidden > 0, hidden, 0.0 * hidden) + layers[2].bias


def slow_contrastive(method: AudioVisual, batch: Batch) -> Tensor:
    images, sounds = batch.views
    u = [two_layers(method.image_projection, row) for row in method.encoder(images)]
    v = [two_layers(method.sound_projection, row) for row in method.sound(sounds)]
    u, v = ([row / row.norm() for row in rows] for rows in (u, v))
    scale, ids, losses = torch.exp(method.log_scale[0]), batch.ids.tolist(), []
    for i in range(COUNT):
        others = [j for j in range(COUNT) if j == i or ids[j] != ids[i]]
        own = torch.exp(scale * u[i] @ v[i])
        losses.append(-torch.log(own / sum(torch.exp(scale * u[i] @ v[j]) for j in others)) / 2)
        losses[-1] -= torch.log(own / sum(torch.exp(scale * u[j] @ v[i]) for j in others)) / 2
    return torch.stack(losses).mean()


def slow_answer(method, image: Tensor, sound: Tensor) -> Tensor:
    """Probability of "yes"."""
    f, g = method.encoder(image[None])[0], method.sound(sound[None])[0]
    if method.config.form == "correspondence":
        logits = two_layers(method.head, torch.cat([f, g]))
    else:
        u, v = two_layers(method.image_projection, f), two_layers(method.sound_projection, g)
        distance = (u / u.norm() - v / v.norm()).square().sum().sqrt()
        logits = method.head.weight[:, 0] * distance + method.head.bias
    return torch.exp(logits[1]) / torch.exp(logits).sum()


def slow_questions(method, batch: Batch) -> tuple[Tensor, list[float]]:
    """The loss, and of each sample the share of its two questions that is answered right."""
    losses, told = [], []
    for image, own, other in zip(*batch.views, strict=True):
        yes, no = slow_answer(method, image, own), 1 - slow_answer(method, image, other)
        losses.append(-torch.log(yes) / 2 - torch.log(no) / 2)
        told.append(((yes > 0.5).item() + (no >= 0.5).item()) / 2)
    return torch.stack(losses).mean(), told


@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradients_equal_the_slow_reference(form):
    method, batch = make(form)
    found = method(batch)
    if form == "contrastive":
        slow = slow_contrastive(method, batch)
    else:
        slow, told = slow_questions(method, batch)
        assert method.told(batch).tolist() == told and found["accuracy"].item() == pytest.approx(sum(told) / COUNT)
        assert {0.0, 0.5, 1.0} & set(told) and method.chance == 0.5
    assert found["loss"].item() == pytest.approx(slow.item(), rel=1e-12)
    names, parameters = zip(*method.named_parameters(), strict=True)
    pairs = zip(
        names, torch.autograd.grad(found["loss"], parameters), torch.autograd.grad(slow, parameters), strict=True
    )
    for name, ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= 1e-10, name


def test_what_batch_norm_is_shown_tells_no_true_pair_from_a_false_one():
    """Own sounds and others' go through the tower together; by themselves each would get statistics of its own."""
    method, batch = make("correspondence")
    method.train()
    images, *sounds = batch.views
    seen = method.encoder(images)
    together = method.sound(torch.cat(sounds)).chunk(2)
    apart = [method.sound(each) for each in sounds]
    for found, one, other in zip(method.answers(batch), together, apart, strict=True):
        assert torch.allclose(found, method.answer(seen, one))
        assert not torch.allclose(found, method.answer(seen, other), rtol=1e-3)


def test_which_forms_have_a_space():
    for form in FORMS:
        method, batch = make(form)
        assert method.joint == (None if form == "correspondence" else ("image", "sound"))
        assert (method.chance is None) == (form == "contrastive")
        for kind, view in zip(method.joint or (), batch.views, strict=False):
            assert torch.allclose(method.embed_joint(kind, view).norm(dim=1), torch.ones(COUNT).double())


def test_views_are_an_image_its_sound_and_where_asked_anothers():
    for form in FORMS:
        image, own, *others = make(form)[0].views().views
        assert (image.size, own) == (SIZE, SOUND)
        assert others == ([] if form == "contrastive" else [replace(SOUND, partner=True)])


@pytest.mark.parametrize("form", FORMS)
def test_of_a_video_one_frame_is_seen(form):
    view = RandomView(clip=Clip(1))
    method, batch = make(form, view=view, of=0)
    assert batch.views[0].shape == (COUNT, 1, 3, SIZE, SIZE)
    loss = method(batch)["loss"]
    batch.views[0] = batch.views[0][:, 0]
    assert torch.equal(method(batch)["loss"], loss)
    with pytest.raises(UserError, match=r"objective\.view\.clip\.frames 2: .* set it to 1"):
        AudioVisual.Config(view=RandomView(clip=Clip(2)))


def test_what_is_heard_is_the_samples_own_and_of_the_moment_that_is_seen():
    for wrong in (dict(sound=replace(SOUND, partner=True)), dict(view=RandomView(partner=True))):
        with pytest.raises(UserError, match=r"objective\.(sound|view)\.partner True: .* leave it out"):
            AudioVisual.Config(**wrong)
    with pytest.raises(UserError, match=r"objective\.sound\.of None: .* set it to 0"):
        AudioVisual.Config(view=RandomView(clip=Clip(1)), sound=SOUND)


def test_near_vectors_keep_their_distance_under_autocast():
    method, _ = make("distance")
    method.float()
    generator = torch.Generator().manual_seed(2)
    images, sounds = (torch.nn.functional.normalize(torch.randn(COUNT, 7, generator=generator)) for _ in range(2))
    exact = method.answer(images, sounds)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(method.answer(images, sounds), exact) and exact.dtype == torch.float32


@pytest.mark.parametrize("form", FORMS)
def test_ranks_and_micro_batches_are_one_process_with_the_whole_batch(form, on_ranks):
    loss, whole = engine_gradients(lambda: make(form)[0], [make(form)[1]], ALONE)
    for answers in zip(*on_ranks(gradients_of_share, 2, form), strict=True):
        assert sum(answer[0] for answer in answers) / 2 == pytest.approx(loss, abs=1e-10)
        for _, found in answers:
            assert found.keys() == whole.keys()
            for name, wanted in whole.items():
                assert (found[name] - wanted).abs().max() <= 1e-10, name


def gradients_of_share(world: World, form: str) -> list[tuple[float, dict[str, Tensor]]]:
    """In one micro-batch, and in three."""
    own = shares(make(form)[1], world.size)[world.rank]
    return [engine_gradients(lambda: make(form)[0], shares(own, count), world) for count in (1, 3)]


def test_the_scale_begins_at_clips_and_never_exceeds_100():
    method, _ = make("contrastive")
    assert method.scale().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        method.log_scale.fill_(7.0)
    method.after_step(0.5)
    assert method.scale().item() == pytest.approx(100)


def test_the_farther_the_less_it_belongs_at_first():
    head = make("distance")[0].head
    for distance, yes in ((1.0, True), (1.8, False)):
        no, logit = head(torch.tensor([distance]).double())
        assert (logit > no).item() == yes
    assert math.sqrt(2) == pytest.approx(-head.bias[0].item())


def test_a_batch_of_one_has_no_other_only_where_others_are_looked_for():
    AudioVisual.Config(form="distance").check_batch(1)
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        AudioVisual.Config().check_batch(1)


def test_a_wrong_tower_is_named():
    with pytest.raises(UserError, match=r"objective\.sound_encoder 'resnt18': timm has no such architecture"):
        make_encoder_of("resnt18")


def make_encoder_of(name: str) -> Objective:
    return AudioVisual.Config(sound_encoder=name).build(make_encoder(EncoderConfig(name="test_resnet")), 160)


@pytest.mark.parametrize(
    ("recipe", "form", "batch_size"),
    [("l3", "correspondence", 256), ("ave", "distance", 256), ("contrastive", "contrastive", 1024)],
)
def test_recipes_of_videos_hear_what_they_see(recipe, form, batch_size):
    run = make_run(f"audio_visual_r18_{recipe}")
    config = run.objective
    assert (config.form, config.out_dim, run.data.batch_size) == (form, 128, batch_size)
    assert (config.view.clip, config.sound.of) == (Clip(1), 0)
    sound = config.sound
    assert (sound.rate, sound.seconds, sound.window, sound.hop, sound.mels) == (48_000, 1.0, 480, 240, 40)
    assert (mel_triangles(sound.rate, sound.window, sound.mels).sum(1) > 0).all(), "no band is without frequencies"
    assert (run.optim.name, run.optim.lr) == ("adamw", 1e-4)
