"""A tokenizer.json that would fill the memory or never end is stopped, in one line."""

import json
from pathlib import Path

import pytest
import tokenizers

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.layout import TOKENIZER
from eyespot.eval.release.towers.tokenizer_trial import try_tokenizer


def refuse(path: Path, words: str, *, mends: bool = False) -> None:
    with pytest.raises(UserError, match=words) as error:
        try_tokenizer(path, 8, "it", mends=mends)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_one_that_works(two_towered: Path):
    try_tokenizer(two_towered / TOKENIZER, 16, "it")


def test_a_letter_that_grows_without_end(tmp_path: Path):
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    path = tmp_path / TOKENIZER
    doubled = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    said = json.loads(made.to_str()) | {"normalizer": {"type": "Sequence", "normalizers": [doubled] * 40}}
    path.write_text(json.dumps(said))
    refuse(path, "tokenizer.json takes more memory or time than any tokenizer|is no tokenizer.json")


def test_what_the_normalizer_hid(tmp_path: Path):
    """Where texts are mended, its normalizer is not used: what it took away then meets what lies behind."""
    made, path = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0})), tmp_path / TOKENIZER
    made.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex(".+"), "a")
    made.save(str(path))
    try_tokenizer(path, 8, "it")
    refuse(path, "is no tokenizer.json .*WordLevel", mends=True)


def test_a_text_that_is_said_again(tmp_path: Path):
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A $A")
    made.save(str(tmp_path / TOKENIZER))
    refuse(tmp_path / TOKENIZER, "is no tokenizer.json .makes more than 8 tokens of .A photo")


def test_no_tokenizer(tmp_path: Path):
    path = tmp_path / TOKENIZER
    refuse(path, "tokenizer.json cannot be read")
    for content in (b"", b"[]", b"\xff\xfe", b'{"model": {"type": "os.system"}}', b"[" * 100_000):
        path.write_bytes(content)
        refuse(path, "is no tokenizer.json")
