"""Golden captions and embeddings answer for both towers and the tokenizer; changed ones are found."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from released_runs import copy_of
from safetensors.torch import load_file, save_file
from torch import Tensor

from eyespot.data_pipeline.augment.views import CenterView, DepthView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.tokenizer import LETTER, UNSEEN, FileTokenizer
from eyespot.eval.release.layout import GOLDEN, write_sums
from eyespot.eval.release.towers.golden_views import EMBEDDING, TEXTS, VIEW, golden_view
from eyespot.eval.release.towers.tokenizer_trial import GOLDEN_TEXTS
from eyespot.eval.release.verify import verified, verified_towers

DAMAGES: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "an embedding": (lambda t: t[f"{EMBEDDING}.text"].neg_(), "golden text embeddings are off by"),
    "an image's": (lambda t: t[f"{EMBEDDING}.image"].neg_(), "golden image embeddings are off by"),
    "no embedding": (lambda t: t.pop(f"{EMBEDDING}.text"), "towers.embedding.text lacks"),
    "one more": (lambda t: t.update({"towers.x": torch.zeros(1)}), "towers.x belongs to no tower"),
    "ids": (lambda t: t[VIEW].fill_(3), "makes other tokens of the golden captions"),
    "ids beyond": (lambda t: t[VIEW].fill_(1 << 40), "towers.view: ids must lie below 10"),
    "half an id": (lambda t: t.update({VIEW: t[VIEW].float()}), "its tower sees .16,. torch.int64"),
    "a longer text": (lambda t: t.update({VIEW: torch.zeros(2, 99, dtype=torch.int64)}), "its tower sees"),
    "no text": (lambda t: t[TEXTS].fill_(255), "towers.texts holds other captions than every release has"),
    "other texts": (lambda t: t.update({TEXTS: t[TEXTS][:9]}), "towers.texts holds other captions"),
    "text of wide letters": (lambda t: t.update({TEXTS: t[TEXTS].int()}), "towers.texts holds other captions"),
    "yes or no": (lambda t: t.update({f"{EMBEDDING}.text": t[f"{EMBEDDING}.text"] > 0}), "is torch.bool, not torch.fl"),
    "eighths": (
        lambda t: t.update({f"{EMBEDDING}.image": t[f"{EMBEDDING}.image"].to(torch.float8_e4m3fn)}),
        "towers.embedding.image is torch.float8_e4m3fn, not torch.float32",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_changed_ones_are_found(two_towered: Path, tmp_path: Path, what: str):
    change, words = DAMAGES[what]
    folder = copy_of(two_towered, tmp_path / "copy")
    tensors = load_file(folder / GOLDEN)
    change(tensors)
    save_file(tensors, folder / GOLDEN)
    write_sums(folder)
    with pytest.raises(UserError, match=words) as error:
        verified(folder)
    assert "\n" not in str(error.value)


def test_only_texts_that_were_tried_are_read(two_towered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    ids = FileTokenizer.ids
    monkeypatch.setattr(FileTokenizer, "ids", lambda self, text: read.append(text) or ids(self, text))
    folder = copy_of(two_towered, tmp_path / "copy")
    verified(folder)
    assert set(read) == {LETTER, UNSEEN, *GOLDEN_TEXTS}
    trigger = torch.tensor(list(b"boom\nboom"), dtype=torch.uint8)
    save_file(load_file(folder / GOLDEN) | {TEXTS: trigger}, folder / GOLDEN)
    write_sums(folder)
    with pytest.raises(UserError, match=r"towers.texts holds other captions"):
        verified(folder)
    assert "boom" not in read


def test_what_they_are(two_towered: Path):
    golden, space = load_file(two_towered / GOLDEN), verified_towers(two_towered)[1]
    assert space is not None and bytes(golden[TEXTS].tolist()).decode() == "\n".join(GOLDEN_TEXTS)
    assert torch.equal(space.embed_texts(GOLDEN_TEXTS), golden[f"{EMBEDDING}.text"])
    assert torch.equal(space.embed_images(golden["input"]), golden[f"{EMBEDDING}.image"])


def test_maps_are_smooth_and_always_the_same():
    views = (CenterView(resize=24, size=24), DepthView(of=0))
    (first,), (again,) = golden_view(views).values(), golden_view(views).values()
    assert first.shape == (2, 1, 24, 24) and torch.equal(first, again)
    assert first.std() > 0.1 and first.diff(dim=3).abs().max() < 0.3
