"""Methods of images with text, sound or depth, each trained for minutes on two cores, then asked about unseen samples.

Captions are made of class names (``members/captioned.py``), so that nothing but the class can be known of an image, and
whatever is said of the class is right; each further kind of member has a file of its own there.
``gates.py`` says what a gate is; what the package shows (docs/methods.md) goes to ``measured_on_members.json``.

    python benchmarks/member_gates.py --work /tmp/members
    python benchmarks/member_gates.py --work /tmp/members clip        the others keep their rows
"""

from functools import partial
from pathlib import Path
from typing import Any

from gates import Gate, Gates
from members import captioned, rendered_shapes, spoken
from members.captioned import CALTECH10, DIGITS
from members.depth_questions import masked_depth, matching, probed_depth
from members.foretelling import foretold
from members.questions import PIXELS, finding, naming, true_pairs
from members.rendered_shapes import SHAPES

from eyespot.cluster.method_cards import MEASURED_ON_MEMBERS

PACKS = {
    **dict.fromkeys(captioned.SETS, captioned.pack),
    spoken.SPOKEN: spoken.pack,
    SHAPES: rendered_shapes.pack,
}
"""By name of the shards: what makes them (name, work, data), unless they are there."""

MULTI_MAE: dict[str, Any] = {
    "steps": 600,
    "low": True,
    "changes": "--encoder.image-size 48 --encoder.patch-size 6 --data.batch-size 128 --optim.lr 4e-3",
    "learned": ((SHAPES, SHAPES),),
    "on": "rendered shapes",
}
"""How it is trained, whatever it is asked."""

captioned_digits = partial(Gate, shares=True, learned=((DIGITS, DIGITS),), on="digits with captions")
captioned_photographs = partial(Gate, shares=True, learned=((CALTECH10, CALTECH10),), on="caltech10 with captions")
LARGER = "--encoder.name resnet10t --encoder.image-size 48 --data.batch-size 128"
NAMING: dict[str, Any] = {"asked": "names the right class by text", "ask": naming, "must_beat": ("chance", PIXELS)}
TOLD = "captions and prompts are the same sentences about the class, so every training image's class was told"

GATES = {
    "clip": captioned_digits(steps=300, told=TOLD, **NAMING),
    "clip/retrieval": captioned_digits(
        steps=300, asked="recall@1 of captions that ask", ask=partial(finding, k=1, image_asks=False)
    ),
    "clip/correspondence": captioned_digits(steps=300, asked="true pair above false one", ask=true_pairs),
    "clip/photographs": captioned_photographs(steps=200, told=TOLD, changes=LARGER, **NAMING),
    "siglip": captioned_digits(steps=300, told=TOLD, **NAMING),
    "virtex": Gate(
        steps=300,
        asked="nats a token of captions",
        ask=foretold,
        must_beat=("others' images", "counted words"),
        low=True,
        changes=f"--objective.text.tokenizer {{work}}/{DIGITS}-words.json --data.batch-size 256 --optim.lr 4e-3",
        learned=((DIGITS, DIGITS),),
        on="digits with captions",
        told="its tokens are the words of the captions, a few dozen in place of CLIP's 49,408",
    ),
    "audio_visual": Gate(asked="image to sound of its digit", ask=spoken.heard, **spoken.TRAINED),
    "audio_visual/meant": Gate(asked="sound to image of its digit", ask=spoken.meant, **spoken.TRAINED),
    "audio_visual/pairs": Gate(asked="own sound before another", ask=spoken.pairs, **spoken.TRAINED),
    "ambient_sound": Gate(
        asked="cluster of the sound", ask=spoken.clusters, must_beat=("most frequent",), **spoken.TRAINED
    ),
    "rgbd_contrast": Gate(
        steps=400,
        asked="own depth map first of 200",
        ask=matching,
        must_beat=("chance", "alike pixels"),
        shares=True,
        changes="--encoder.image-size 48 --data.batch-size 128 --optim.lr 6e-3",
        learned=((SHAPES, SHAPES),),
        on="rendered shapes",
    ),
    "multi_mae": Gate(
        asked="relative error of a linear probe of depth", ask=probed_depth, must_beat=("mean depth",), **MULTI_MAE
    ),
    "multi_mae/masked": Gate(
        asked="error of masked depth, standard deviations",
        ask=masked_depth,
        must_beat=("mean map", "what is near"),
        **MULTI_MAE,
    ),
}
"""By method; where it is asked several questions, the further ones by "method/question"."""


def pack(name: str, work: Path, data: Path) -> None:
    PACKS[name](name, work, data)


MEMBER_GATES = Gates(
    name="member_gates",
    title="Methods of images with text, sound or depth, minutes of training: questions about unseen samples",
    samples="samples",
    gates=GATES,
    pack=pack,
    shown_in=MEASURED_ON_MEMBERS,
)

if __name__ == "__main__":
    MEMBER_GATES.main(__doc__)
