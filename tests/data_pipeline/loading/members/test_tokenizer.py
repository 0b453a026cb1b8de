"""CLIP's tokenizer gives open_clip's ids, character by character; others are data that their file describes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch

from eyespot.data_pipeline.augment.views import RandomView, TextView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members import tokenizer as subject
from eyespot.data_pipeline.loading.members.tokenizer import (
    VOCABULARY_SHA256,
    FileTokenizer,
    load_tokenizer,
    tokenizer_digests,
)

TEXTS = (
    "a photo of a cat",
    "",
    "A DOG's  breakfast:\t'tis they've, we'll & I'd\n",
    "Café élève, Ångström naïve — façade İstanbul ſs ß",
    "一只猫坐在垫子上 犬が走る 고양이",
    "🐈‍⬛ 👩‍👩‍👧 ❤️🔥",
    "“typographic” ‘quotes’ … – it’s",
    "â€œmojibakeâ€\x9d &amp;quot;html&amp;quot; &lt;3",
    "1234567890 3.14 x²",
    "antidisestablishmentarianism " * 40,
)


def test_ids_are_those_of_open_clip():
    from open_clip.tokenizer import SimpleTokenizer

    theirs = SimpleTokenizer()
    ranges = [(32, 127), (160, 0x250), (0x370, 0x530), (0x4E00, 0x4F00), (0x1F300, 0x1F700), (0x2000, 0x2070)]
    blocks = torch.randint(len(ranges), (300, 12)).tolist()
    drawn = torch.rand(300, 12).tolist()
    random = [
        "".join(
            chr(int(low + share * (high - low)))
            for share, (low, high) in zip(row, map(ranges.__getitem__, at), strict=True)
        )
        for row, at in zip(drawn, blocks, strict=True)
    ]
    for context in (77, 16):
        ours = load_tokenizer("clip", context)
        texts = [*TEXTS, *random]
        assert np.array_equal(ours(texts), theirs(texts, context).numpy())
        assert ours.num_tokens == theirs.vocab_size == 49_408 and ours.digest == VOCABULARY_SHA256
    assert load_tokenizer("clip", 16)(TEXTS[-1:])[0, -1] == theirs.eot_token_id, "cut before the end token"
    assert load_tokenizer("clip", 16)(["x <end_of_text> y"])[0].tolist().count(theirs.eot_token_id) == 1


def test_open_clip_is_not_imported():
    script = "import sys; from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer as t; t('clip', 9)"
    import subprocess

    found = subprocess.run(
        [sys.executable, "-c", f"{script}; print('open_clip' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "False"


def own(path: Path) -> Path:
    """A tokenizer of five words, which begins, ends and pads texts with tokens of its own."""
    words = {"<pad>": 7, "<s>": 1, "</s>": 2, "a": 3, "cat": 4, "dog": 5, "<unk>": 6}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = [("<s>", 1), ("</s>", 2)]
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    made.enable_padding(pad_id=7, pad_token="<pad>")
    made.save(str(path))
    return path


def test_a_file_describes_its_own(tmp_path: Path):
    path = own(tmp_path / "tokenizer.json")
    read = load_tokenizer(str(path), 5)
    assert read(["a cat", "a dog a dog a", ""]).tolist() == [[1, 3, 4, 2, 7], [1, 3, 5, 3, 2], [1, 2, 7, 7, 7]]
    assert (read.num_tokens, read.start, read.end) == (8, 1, 2), "ids may have gaps"
    views = ViewSpec(views=(RandomView(size=8), TextView(tokenizer=str(path), context=5), TextView()))
    assert tokenizer_digests(views) == {str(path): read.digest, "clip": VOCABULARY_SHA256}


def test_texts_may_begin_or_end_without_a_token(tmp_path: Path):
    made = tokenizers.Tokenizer.from_file(str(own(tmp_path / "tokenizer.json")))
    for template, start, end in (("$A", None, None), ("<s> $A", 1, None), ("$A </s>", None, 2)):
        special = [("<s>", 1), ("</s>", 2)]
        made.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=special)
        made.save(str(tmp_path / f"{start}-{end}.json"))
        read = load_tokenizer(str(tmp_path / f"{start}-{end}.json"), 5)
        assert (read.start, read.end) == (start, end)
    clip = load_tokenizer("clip", 5)
    assert (clip.start, clip.end) == (49_406, 49_407) and clip.num_tokens == 49_408


def test_a_token_that_ends_texts_does_not_begin_them(tmp_path: Path):
    """Else a text's vector would stand at its first token, where it is the same for all texts."""
    path = own(tmp_path / "tokenizer.json")
    made = tokenizers.Tokenizer.from_file(str(path))
    made.post_processor = tokenizers.processors.TemplateProcessing(single="</s> $A </s>", special_tokens=[("</s>", 2)])
    made.save(str(path))
    with pytest.raises(UserError, match=r"its token 2, which ends a text, stands before that end, too"):
        load_tokenizer(str(path), 5)


def test_a_tokenizer_that_draws_is_refused(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    for dropout, refused in ((0.5, True), (0.0, False), (None, False)):
        vocabulary, merges = {"a": 0, "b": 1, "ab": 2}, [("a", "b")]
        tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges, dropout=dropout)).save(str(path))
        load_tokenizer.cache_clear()
        if refused:
            with pytest.raises(UserError, match=r"model\.dropout 0\.5: a text would be cut differently each time"):
                load_tokenizer(str(path), 5)
        else:
            assert load_tokenizer(str(path), 5)(["ab"]).tolist() == [[2, 0, 0, 0, 0]]


def test_a_tokenizer_without_a_token_for_unknown_words_is_refused(tmp_path: Path, monkeypatch):
    path, words = tmp_path / "tokenizer.json", {"a": 0, "?": 1}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>")).save(str(path))
    said = r"tokenizer .*tokenizer\.json: cannot cut '.*' into tokens \(WordLevel error.*\); .* add its unk_token to"
    with pytest.raises(UserError, match=said):
        FileTokenizer(path, 5)
    monkeypatch.setattr(subject, "UNSEEN", "a")
    with pytest.raises(UserError, match=said) as error:
        FileTokenizer(path, 5)(["a cat\nand a dog"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file or directory"), (b"{}", "is no tokenizer.json"), (b"\xff", "is no tokenizer.json")],
)
def test_what_is_no_tokenizer_is_refused_in_one_line(tmp_path: Path, content: bytes | None, said: str):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        load_tokenizer(str(path), 9)
    assert "\n" not in str(error.value)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(subject.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r'tokenizer clip: needs the package open_clip_torch: pip install "eyespot\[text\]"'
    ):
        load_tokenizer.__wrapped__("clip", 77)
    monkeypatch.undo()
    monkeypatch.setattr(subject, "VOCABULARY_SHA256", "0" * 64)
    with pytest.raises(UserError, match="is not CLIP's vocabulary"):
        load_tokenizer.__wrapped__("clip", 77)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match="needs the package tokenizers"):
        load_tokenizer.__wrapped__("clip", 77)


@pytest.mark.parametrize("context", [77, 9])
def test_clips_is_written_out_as_data(tmp_path: Path, context: int):
    """Read again with mending it gives the same ids; without, by the library alone, those of common texts."""
    ours = load_tokenizer("clip", context)
    path = tmp_path / "tokenizer.json"
    path.write_text(ours.as_json(), encoding="utf-8")
    texts = [*TEXTS, "x <end_of_text> y", "&ldquo;so&rdquo; A\u0301"]
    again = FileTokenizer(path, context, mends=True)
    assert np.array_equal(again(texts), ours(texts))
    assert (again.num_tokens, again.end, again.as_json()) == (ours.num_tokens, ours.end, path.read_text("utf-8"))
    alone = tokenizers.Tokenizer.from_file(str(path))
    common = [text for text in TEXTS if "mojibake" not in text]
    assert np.array_equal([alone.encode(text).ids for text in common], ours(common))
