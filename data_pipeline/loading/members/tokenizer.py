"""Tokenizers: text in, token ids out, always as many.

"clip" is CLIP's (Radford et al. 2021, arXiv:2103.00020): byte pairs, 49,408 tokens, lower case; its vocabulary is read
out of the installed wheel of open_clip_torch, and nothing else of that is imported. The ids are open_clip's, but that
"<end_of_text>" written in a caption is text like any other. Any other name is the path of a tokenizer.json, which is
data only (Hugging Face's format); it says itself which tokens begin and end a text, and which one pads.
"""

import gzip
import hashlib
import html
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.augment.views import CLIP_TOKENIZER, TextView, ViewSpec
from eyespot.data_pipeline.errors import UserError

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
VOCABULARY_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
NUM_MERGES = 48_894
"""Of the lines behind the first one, those that CLIP's vocabulary is made of."""
PARTS = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What a text is cut into before pairs are merged."""
SPECIAL = ("<start_of_text>", "<end_of_text>")
"""Names of the two tokens that begin and end a text."""
LARGEST = 64 * 2**20
"""Bytes of a tokenizer.json."""
LETTER, UNSEEN = "a", "a\U0010fffd \U0010fffd"
"""What every tokenizer.json is asked for as it is loaded: a text, and words that no vocabulary holds."""


class Tokenizer(ABC):
    """Text in, token ids out; safe to use from several threads."""

    digest: str
    """sha256 of the file that says which tokens there are."""
    num_tokens: int
    """Ids are below it."""
    start: int | None
    """The id that begins every text; None = texts begin with their first word."""
    end: int | None
    """The id that ends every text; None = texts end without one."""

    mends: bool = False
    """Whether texts are mended as CLIP does (``Mender``) before what ``as_json`` describes reads them."""

    @abstractmethod
    def ids(self, text: str) -> Sequence[int]:
        """Of a text, with the tokens that begin and end it, as many as the context at most."""

    @abstractmethod
    def as_json(self) -> str:
        """The content of a tokenizer.json that makes the same ids of (mended) texts."""

    def __init__(self, context: int, padding: int):
        self._context, self._padding = context, padding

    def __call__(self, texts: Sequence[str]) -> Int64[np.ndarray, "b context"]:
        """The ids of each text; what is longer is cut before the token that ends it, what is shorter padded."""
        rows = np.full((len(texts), self._context), self._padding, np.int64)
        for row, text in zip(rows, texts, strict=True):
            found = self.ids(text)
            row[: len(found)] = found
        return rows


@lru_cache(maxsize=8)
def load_tokenizer(name: str, context: int) -> Tokenizer:
    """A tokenizer.

    Args:
        name: "clip", or the path of a tokenizer.json.
        context: how many ids a text has.

    Raises:
        UserError: a package is missing, or the file is, or is no tokenizer.
    """
    return ClipTokenizer(context) if name == CLIP_TOKENIZER else FileTokenizer(Path(name), context)


def tokenizer_digests(views: ViewSpec) -> dict[str, str]:
    """Of each tokenizer that views read text with, by name.

    Raises:
        UserError: one cannot be had.
    """
    texts = [view for view in views.views if isinstance(view, TextView)]
    return {view.tokenizer: load_tokenizer(view.tokenizer, view.context).digest for view in texts}


class ClipTokenizer(Tokenizer):
    """CLIP's; short texts are padded with zeros, as open_clip does."""

    mends = True

    def __init__(self, context: int):
        super().__init__(context, 0)
        library, self._mend = _library(CLIP_TOKENIZER), Mender(CLIP_TOKENIZER)
        merges, self.digest = _clip_merges()
        characters = _byte_characters()
        words = [*characters, *(f"{one}</w>" for one in characters), *("".join(pair) for pair in merges)]
        model = library.models.BPE(
            {word: number for number, word in enumerate(words)}, merges, end_of_word_suffix="</w>"
        )
        self._start, self._end, self.num_tokens = len(words), len(words) + 1, len(words) + 2
        self.start, self.end = self._start, self._end
        self._merged = library.Tokenizer(model)
        cut = library.pre_tokenizers.Split(library.Regex(PARTS), behavior="removed", invert=True)
        as_bytes = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._merged.pre_tokenizer = library.pre_tokenizers.Sequence([cut, as_bytes])

    def ids(self, text: str) -> Sequence[int]:
        """Of the text, mended as CLIP does."""
        found = self._merged.encode(self._mend(text)).ids
        return [self._start, *found[: self._context - 2], self._end]

    def as_json(self) -> str:
        """Also for those who cannot mend: its normalizer does what a tokenizer.json can, and spares most texts that."""
        library = _library(CLIP_TOKENIZER)
        begin, end = SPECIAL
        described = json.loads(self._merged.to_str())
        described["model"]["vocab"] |= {begin: self._start, end: self._end}
        made = library.Tokenizer.from_str(json.dumps(described))
        parts = library.normalizers
        quotes = zip("\u2018\u2019\u201c\u201d", "''\"\"", strict=True)
        straight = [parts.Replace(curly, plain) for curly, plain in quotes]
        spaces = parts.Replace(library.Regex(r"\s+"), " ")
        made.normalizer = parts.Sequence([parts.NFC(), *straight, spaces, parts.Strip(), parts.Lowercase()])
        made.post_processor = library.processors.TemplateProcessing(
            single=f"{begin} $A {end}", special_tokens=[(begin, self._start), (end, self._end)]
        )
        made.enable_truncation(self._context)
        made.enable_padding(length=self._context, pad_id=0, pad_token=made.id_to_token(0))
        return made.to_str()


class Mender:
    """CLIP's way with texts: ftfy, HTML's entities, white space, lower case.

    Args:
        name: of the tokenizer that needs it, for the error.

    Raises:
        UserError: ftfy is missing.
    """

    def __init__(self, name: str):
        try:
            from ftfy import fix_text
        except ImportError as error:
            raise _lacking(name, "ftfy") from error
        self._fix_text = fix_text

    def __call__(self, text: str) -> str:
        """The text, mended."""
        mended = html.unescape(html.unescape(self._fix_text(text)))
        return " ".join(mended.split()).lower()


class FileTokenizer(Tokenizer):
    """That of a tokenizer.json.

    Args:
        path: the file.
        context: how many ids a text has.
        mends: texts are mended before, in place of what the file's normalizer does.

    Raises:
        UserError: a package is missing, or the file is, or is no tokenizer, or knows what to do with known words only.
    """

    def __init__(self, path: Path, context: int, *, mends: bool = False):
        library = _library(str(path))
        self.mends, self._mend = mends, Mender(str(path)) if mends else None
        try:
            content = foreign_json.read_bytes(path, LARGEST)
        except foreign_json.ForeignJsonError as error:
            raise UserError(f"tokenizer {path}: {error.why}; name a tokenizer.json, or clip") from error
        except OSError as error:
            raise UserError(f"tokenizer {path}: {error.strerror}; name a tokenizer.json, or clip") from error
        try:
            self._tokenizer = library.Tokenizer.from_str(content.decode())
            padding = (self._tokenizer.padding or {}).get("pad_id", 0)
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(context)
            if mends:
                self._tokenizer.normalizer = library.normalizers.Sequence([])
            nothing = self._tokenizer.encode("").ids
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"tokenizer {path}: is no tokenizer.json ({_why(error)}), or has no room in {context} tokens"
            ) from error
        self._path = path
        letter, _ = self.ids(LETTER), self.ids(UNSEEN)
        if dropout := getattr(self._tokenizer.model, "dropout", None):
            raise UserError(
                f"tokenizer {path}: model.dropout {dropout}: a text would be cut differently each time; set it to null"
            )
        super().__init__(context, int(padding))
        self._content = content.decode()
        self.digest = hashlib.sha256(content).hexdigest()
        self.num_tokens = 1 + max(int(padding), *letter, *self._tokenizer.get_vocab().values())
        longer = len(letter) > len(nothing)
        self.start = letter[0] if longer and letter[:1] == nothing[:1] else None
        self.end = letter[-1] if letter[-1:] == nothing[-1:] and longer else None
        if self.end in letter[:-1]:
            raise UserError(
                f"tokenizer {path}: its token {self.end}, which ends a text, stands before that end, too, so nobody can"
                " tell where a text ends; let its post_processor begin texts with another token, or with none"
            )

    def ids(self, text: str) -> Sequence[int]:
        """Of the text, as the file says.

        Raises:
            UserError: the file says nothing of such a text.
        """
        mended = text if self._mend is None else self._mend(text)
        try:
            return self._tokenizer.encode(mended).ids
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"tokenizer {self._path}: cannot cut {mended!a:.60} into tokens ({_why(error)}); where it lacks a token"
                " for words that it does not know, add its unk_token to its vocabulary"
            ) from error

    def as_json(self) -> str:
        """What the file holds."""
        return self._content


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _library(name: str) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise _lacking(name, "tokenizers") from error
    return tokenizers


def _lacking(name: str, package: str) -> UserError:
    return UserError(f'tokenizer {name}: needs the package {package}: pip install "eyespot[text]"')


def _clip_merges() -> tuple[list[tuple[str, str]], str]:
    """The pairs in the order in which they are merged, and the file's sha256."""
    found = importlib.util.find_spec("open_clip")  # found, not imported: that takes seconds
    if found is None or not found.submodule_search_locations:
        raise _lacking(CLIP_TOKENIZER, "open_clip_torch")
    path = Path(next(iter(found.submodule_search_locations))) / VOCABULARY
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"tokenizer clip: {path}: {error.strerror}; install open_clip_torch again") from error
    if (digest := hashlib.sha256(content).hexdigest()) != VOCABULARY_SHA256:
        raise UserError(
            f"tokenizer clip: {path} is not CLIP's vocabulary (sha256 {digest}); install open_clip_torch again"
        )
    lines = gzip.decompress(content).decode().split("\n")[1 : NUM_MERGES + 1]
    return [(left, right) for left, right in (line.split() for line in lines)], digest


def _byte_characters() -> list[str]:
    """A visible character for each byte, in the order of CLIP's vocabulary: those that are visible first."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(visible)
    return [*map(chr, visible), *(chr(256 + number) for number in range(others))]
