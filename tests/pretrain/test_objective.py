"""What every objective inherits, on the least that is one."""

from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import nn

from eyespot.data_pipeline.augment.views import (
    AudioView,
    CenterView,
    Clip,
    DepthView,
    RandomView,
    TextView,
    View,
    ViewSpec,
)
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch, noise_views
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.objective import NUM_PICTURED, Objective, in_one_pass, require_clip
from eyespot.pretrain.recipe_lookup import make_run

STILL = CenterView(resize=4, size=4)


class Mean(Objective):
    """Remembers in a step what its batch was."""

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        def build(self, encoder, image_size):
            return Mean(encoder)

    def __init__(self, encoder: nn.Module | None = None, views: tuple[View, ...] = (STILL,)) -> None:
        super().__init__()
        self.made = views
        self.encoder = encoder if encoder is not None else nn.Flatten()
        self.noted: list[int] = []

    def views(self):
        return ViewSpec(views=self.made)

    def forward(self, batch):
        if self.in_step:
            self.noted.append(len(batch))
        return {"loss": sum(view.mean() for view in batch.views)}


def make_batch(*sizes: int, count: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(count)
    views = [torch.randn(count, 3, size, size, generator=generator) for size in sizes]
    return Batch(views=views, ids=ids, epochs=ids * 0, labels=ids * 0, seed=0)


def test_only_a_pass_with_gradient_belongs_to_a_step():
    objective = Mean()
    with torch.no_grad():
        objective(make_batch(4))
    with torch.inference_mode():
        objective(make_batch(4))
    assert objective.noted == []
    objective(make_batch(4))
    assert objective.noted == [12]


def test_evaluation_mode_does_not_end_a_step():
    """A frozen encoder's objective trains in evaluation mode too."""
    objective = Mean().eval()
    objective(make_batch(4))
    assert objective.noted == [12]


def test_the_picture_is_the_views_of_a_few_samples():
    batch = make_batch(4, 4, 4)
    picture = Mean(views=(STILL,) * 3).picture(batch)
    assert picture is not None
    assert picture.shape == (3, NUM_PICTURED, 3, 4, 4)
    assert torch.equal(picture[2, 5], batch.views[2][5])


def test_text_depth_and_sound_are_no_part_of_the_picture():
    batch, two = make_batch(4, 4), (STILL,) * 2
    picture = Mean(views=two).picture(batch)
    beside = [torch.zeros(12, 7, dtype=torch.int64), torch.zeros(12, 1, 4, 4), torch.zeros(12, 1, 20, 9)]
    others = (TextView(), DepthView(of=0), AudioView())
    found = Mean(views=(*two, *others)).picture(replace(batch, views=[*batch.views, *beside]))
    assert found is not None and picture is not None and found.shape == picture.shape


@pytest.mark.parametrize("sizes", [(4,), (4, 2)])
def test_one_view_or_views_of_several_sizes_are_no_picture(sizes):
    assert Mean(views=(STILL,) * len(sizes)).picture(make_batch(*sizes)) is None


def test_without_a_word_of_its_own_a_method_needs_no_labels_and_takes_any_batch():
    config = Mean.Config()
    config.check_batch(1)
    assert config.needs_labels() == "none"
    objective = config.build(nn.Flatten(), 4)
    objective.prepare(torch.arange(3))
    objective.after_step(0.5)
    objective.after_skip()
    assert (objective.num_classes, objective.refresh_epochs, objective.picture_rows) == (None, None, ())


def test_encode_gives_a_row_of_features_per_image():
    objective = Mean(Pooling())
    images = make_batch(4).views[0]
    assert torch.equal(objective.encode(images), images.mean((2, 3)))


class Pooling(nn.Module):
    """A timm encoder as seen from outside: a map, and what is pooled of it."""

    num_prefix_tokens = 0

    def forward_features(self, images):
        return images

    def forward_head(self, features, pre_logits: bool = False):
        return features.mean((2, 3))

    def forward(self, images):
        return self.forward_head(self.forward_features(images), pre_logits=True)


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (None, "clip None: this method learns from videos; set it to Clip(4) or more"),
        (Clip(4, pick="even"), "clip.pick 'even': this method needs 'ordered'"),
        (Clip(5, pick="ordered"), None),
    ],
)
def test_a_method_of_videos_says_what_clip_it_needs(clip, said):
    view = RandomView(clip=clip)
    if said is None:
        assert require_clip(view, pick="ordered", least=4) == clip
        return
    with pytest.raises(UserError) as caught:
        require_clip(view, pick="ordered", least=4)
    assert str(caught.value) == f"objective.view.{said}"


ONE_SIZED = (
    *("arrow_of_time", "counting", "denoising", "frame_order", "inpainting", "jigsaw", "odd_one_out"),
    *("relative_patch", "split_brain", "vae", "video_colorization", "video_mae"),
)


@pytest.mark.parametrize("method", ONE_SIZED)
def test_a_size_that_a_method_cannot_work_with_is_refused(method):
    run = make_run(f"{method}_tiny")
    with torch.device("meta"):
        objective = fresh_objective(run)
    (view,) = objective.views().images
    config, asked = objective.config, run.objective.view
    config.view = replace(asked, size=view.size)
    assert objective.views().images == [view]
    config.view = replace(asked, size=view.size + 8)
    with pytest.raises(UserError, match=rf"objective\.view\.size {view.size + 8}: .*; leave it out"):
        objective.views()


def test_views_that_share_a_pass_are_of_one_size_or_a_line_says_which_is_not():
    whole, small = RandomView(), RandomView(size=24)
    assert [view.size for view in in_one_pass(32, first=whole, second=whole).images] == [32, 32]
    assert [view.size for view in in_one_pass(24, first=whole, second=small).images] == [24, 24]
    with pytest.raises(UserError, match=r"^objective\.second\.size 24: .* objective\.first, whose size is 32; .*"):
        in_one_pass(32, first=whole, second=small)


@pytest.mark.parametrize("method", ["barlow_twins", "byol", "dino", "moco_v3", "swav", "uda", "vicreg"])
def test_no_method_breaks_off_over_the_size_of_one_of_its_views(method):
    """It takes another size, or one line refuses it; those are all methods that are told of several views."""
    run = make_run(f"{method}_tiny")
    views = {each.name: getattr(run.objective, each.name) for each in fields(run.objective)}
    views = {name: view for name, view in views.items() if isinstance(view, RandomView)}
    assert len(views) > 1
    for name, view in views.items():
        larger = replace(view, size=(view.size or run.encoder.image_size) + 8)
        run.objective = replace(run.objective, **{name: larger})
        objective = fresh_objective(run, torch.arange(8))
        try:
            spec = objective.views()
        except UserError as error:
            assert str(error).startswith(f"objective.{name}.size {larger.size}: ")
        else:
            views_made = noise_views(spec, 8, generator=torch.Generator().manual_seed(0))
            ids = torch.arange(8)
            batch = Batch(views=views_made, ids=ids, epochs=ids * 0, labels=ids % 2, seed=0)
            assert objective(batch)["loss"].isfinite()
        run.objective = replace(run.objective, **{name: view})
