"""Methods of images with text, sound or depth, each trained for minutes on two cores, then asked about unseen samples.

Captions are made of class names (``members/captioned.py``); each further kind of member has a file of its own there.
``gates.py`` says what a gate is; what the package shows (docs/methods.md) goes to ``measured_on_members.json``.

    python benchmarks/member_gates.py --work /tmp/members
    python benchmarks/member_gates.py --work /tmp/members clip        the others keep their rows
"""

from pathlib import Path

from gates import Gate, Gates
from members import captioned, spoken
from members.captioned import DIGITS
from members.questions import naming

from eyespot.cluster.method_cards import MEASURED_ON_MEMBERS

PACKS = {**dict.fromkeys(captioned.SETS, captioned.pack), spoken.SPOKEN: spoken.pack}
"""By name of the shards: what makes them (name, work, data), unless they are there."""

GATES = {
    "clip": Gate(
        steps=300,
        asked="zero-shot accuracy",
        ask=naming,
        shares=True,
        learned=((DIGITS, DIGITS),),
        on="digits with captions",
    ),
    "audio_visual": Gate(asked="image to sound of its digit", ask=spoken.heard, **spoken.TRAINED),
    "audio_visual/meant": Gate(asked="sound to image of its digit", ask=spoken.meant, **spoken.TRAINED),
    "audio_visual/pairs": Gate(asked="own sound before another", ask=spoken.pairs, **spoken.TRAINED),
    "ambient_sound": Gate(
        asked="cluster of the sound", ask=spoken.clusters, must_beat=("most frequent",), **spoken.TRAINED
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
