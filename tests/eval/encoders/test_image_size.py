"""Evaluation at another size than that of training."""

import pytest
import timm
import torch

from eyespot.data_pipeline.augment.views import CenterView, center_view
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.encoders.image_size import at_size
from eyespot.eval.encoders.subject import Subject, encode_all, subjects_of
from eyespot.eval.evaluate import judge
from eyespot.eval.results.selection import find_entries
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_it_is_shown_the_same_part_of_the_image(run_dir):
    trained, random = at_size(subjects_of(str(run_dir), seed=0), 24)  # 16 in training, where small images are whole
    assert trained.views.views == random.views.views == (CenterView(resize=24, size=24),)
    assert (trained.tag, random.tag) == ("step-00000012-24px", "random-seed0-24px")
    (cut,) = at_size(subjects_of("test_resnet", seed=0, pretrained=False), 96)  # 168 of which 160, says timm
    assert cut.views.views[0] == CenterView(
        resize=round(96 * center_view(160, 0.95).resize / 160), size=96, interpolation="bilinear"
    )


def test_the_size_of_training_changes_no_bit(run_dir):
    before = subjects_of(str(run_dir), seed=0)[0]
    (after,) = at_size(subjects_of(str(run_dir), seed=0)[:1], 16)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = encode_all(before.encoder, images)
    assert all(rows.equal(expected[kind]) for kind, rows in encode_all(after.encoder, images).items())


def test_features_are_those_of_timm_at_that_size(run_dir):
    """Of its vision transformer made for any size."""
    own = subjects_of(str(run_dir), seed=0)[0].encoder
    other = timm.create_model("test_vit", img_size=16, patch_size=4, num_classes=0, dynamic_img_size=True)
    other.load_state_dict(own.state_dict())
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    (subject,) = at_size(subjects_of(str(run_dir), seed=0)[:1], 24)
    found = encode_all(subject.encoder, images)
    with torch.inference_mode():
        assert found["cls"].allclose(other.eval().forward_features(images)[:, 0], atol=1e-6)


@pytest.mark.parametrize(("encoder", "size"), [("test_vit", 100), ("mixer_s32_224", 96), ("pit_ti_224", 96)])
def test_what_cannot_be_seen_is_refused(encoder, size):
    with pytest.raises(UserError, match=rf"^image-size {size}: \S"):
        at_size(subjects_of(encoder, seed=0, pretrained=False), size)


def test_windows_and_rotated_positions_see_another_size():
    """Swin's windows shrink with its maps, so timm's own model has other tables; DINOv3's positions are computed."""
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    for name in ("swin_tiny_patch4_window7_224", "vit_small_patch16_dinov3"):
        (subject,) = at_size(subjects_of(name, seed=0, pretrained=False), 96)
        with torch.inference_mode():
            found = encode_all(subject.encoder, images)
        assert all(rows.isfinite().all() and rows.std(0).max() > 0 for rows in found.values()), name
    other = timm.create_model("vit_small_patch16_dinov3", num_classes=0, img_size=96).eval()
    other.load_state_dict(subject.encoder.state_dict(), strict=False)
    with torch.inference_mode():
        own = other.forward_head(other.forward_features(images), pre_logits=True)
    assert any(rows.allclose(own, atol=1e-4) for rows in found.values())


def test_results_stand_beside_those_of_training(run_dir, digits, tmp_path):
    known = {"out": tmp_path, "seed": 0, "pretrained": True, "world": ALONE}
    usual = judge("knn", str(run_dir), digits, **known)
    larger = judge("knn", str(run_dir), digits, image_size=32, **known)
    assert [result.role for result in larger] == ["encoder", "random"]
    assert len(list(tmp_path.glob("knn_*.json"))) == len(usual) + len(larger)
    assert larger[0].key != usual[0].key and larger[0].correct != usual[0].correct
    assert larger[0].data == f"{usual[0].data} at 32 px"
    again = judge("knn", str(run_dir), digits, image_size=32, **known)
    assert [result.created for result in again] == [result.created for result in larger]


def test_results_at_two_sizes_do_not_meet(run_dir, digits, tmp_path):
    """Unless they are asked to."""
    known = {"seed": 0, "pretrained": True, "world": ALONE}
    places = [tmp_path / "usual", tmp_path / "larger"]
    judge("knn", str(run_dir), digits, out=places[0], **known)
    judge("knn", str(run_dir), digits, out=places[1], image_size=32, **known)
    with pytest.raises(UserError, match="images as in training against images of 32 pixels"):
        find_entries(places)
    usual, larger = find_entries(places, across_protocols=True)
    assert usual.result.origin["step"] == larger.result.origin["step"] == 12
    judge("knn", str(run_dir), digits, out=places[0], image_size=32, **known)
    with pytest.raises(UserError, match=rf"results on {digits.name} .* and {digits.name} at 32 px .*name result files"):
        find_entries(places[:1])
    found = find_entries(places[1:], baselines=True)
    assert [entry.result.role for entry in found] == ["encoder", "random"]


def test_a_subject_says_its_size_in_its_digest(run_dir):
    def first(size: int) -> Subject:
        return at_size(subjects_of(str(run_dir), seed=0), size)[0]

    assert first(24).digest() != first(16).digest() == subjects_of(str(run_dir), seed=0)[0].digest()
