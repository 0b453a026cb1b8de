"""A stranger's tokenizer.json is tried in a process of its own first.

Its rules can lengthen a letter without end, or search for ever, and the library that follows them can neither be
interrupted nor told how much it may take. The process has little memory and little time; if it lives, so do we.
"""

import json
import subprocess
import sys
from pathlib import Path

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.tokenizer import LARGEST, LETTER, UNSEEN, Mender

GOLDEN_TEXTS = (
    "A photo of two dogs & one cat: it's 3 o'clock.",
    "\u201cCafe\u0301\u201d &amp; tea \u2014 \u732b \U0001f408",
)
"""What is tried, and what releases answer for: marks, accents, another script, and what CLIP mends."""
MAX_SECONDS, MAX_BYTES = 60, 4 << 30

_SCRIPT = f"""
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MAX_BYTES}, {MAX_BYTES}))
resource.setrlimit(resource.RLIMIT_CPU, ({MAX_SECONDS}, {MAX_SECONDS}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from tokenizers import Tokenizer, normalizers
context, mends, texts = json.loads(sys.argv[1])
made = Tokenizer.from_str(sys.stdin.buffer.read().decode())
made.no_padding()
made.enable_truncation(context)
if mends:
    made.normalizer = normalizers.Sequence([])
for text in texts:
    if len(made.encode(text).ids) > context:
        sys.exit(f"makes more than {{context}} tokens of {{text!a}}")
"""


def try_tokenizer(path: Path, context: int, source: str, *, mends: bool = False) -> None:
    """Lets the file encode a few texts, just as ``FileTokenizer`` does.

    Args:
        path: of the tokenizer.json.
        context: tokens of a text.
        source: what to call the release in errors.
        mends: texts are mended before, in place of what the file's normalizer does.

    Raises:
        UserError: a package is missing, or it is no tokenizer, or takes more memory or time than any.
    """
    try:
        content = foreign_json.read_bytes(path, LARGEST)
    except foreign_json.ForeignJsonError as error:
        raise UserError(f"{source}: {path.name}: {error.why}; fetch the release anew") from error
    except OSError as error:
        raise UserError(f"{source}: {path.name} cannot be read ({error.strerror}); fetch the release anew") from error
    texts = ["", LETTER, UNSEEN, *(map(Mender(f"{source}: {path.name}"), GOLDEN_TEXTS) if mends else GOLDEN_TEXTS)]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _SCRIPT, json.dumps([context, mends, texts])],
            input=content,
            capture_output=True,
            timeout=2 * MAX_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{source}: {path.name} takes more time than any tokenizer; do not use it") from error
    if done.returncode < 0:
        raise UserError(f"{source}: {path.name} takes more memory or time than any tokenizer; do not use it")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [""]
        if "ModuleNotFoundError" in lines[-1]:
            raise UserError(f'{source}: {path.name} needs the package tokenizers: pip install "eyespot[text]"')
        raise UserError(f"{source}: {path.name} is no tokenizer.json ({lines[-1][:200]}); fetch the release anew")
