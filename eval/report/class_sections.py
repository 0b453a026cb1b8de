"""Parts about classes: who is taken for whom, and how the features lie."""

import numpy as np

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.protocols.knn import TEMPERATURE, vote
from eyespot.eval.report.diagrams import confusion_map, scatter
from eyespot.eval.report.encoder_sections import EncoderPart, Exhibit, Look
from eyespot.eval.report.projections import plane
from eyespot.eval.results.significance import wilson

K = 20
NUM_MISTAKES = 5


def confusion(look: Look) -> Exhibit:
    """A confusion matrix of the neighbours' vote, and the commonest mistakes in words."""
    import torch

    few, bank, classes = look.specimens.mapped, look.specimens.bank, look.specimens.classes
    if not classes:
        raise UserError("the images have no labels")
    k = min(K, len(bank.ids))
    labels = torch.from_numpy(bank.labels)
    guesses = vote(look.mapped(), look.bank(), labels, num_classes=len(classes), ks=(k,))[k].numpy()
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (few.labels, guesses), 1)
    right, total = int(np.trace(counts)), len(guesses)
    low, high = wilson(right, total)
    chart = confusion_map(counts, classes, title=f"Confusion matrix of {look.story.label}")
    wrong = [(counts[i, j], classes[i], classes[j]) for i, j in zip(*np.nonzero(counts), strict=True) if i != j]
    said = [f"{name} taken for {other} ({count}×)" for count, name, other in sorted(wrong, key=lambda w: -w[0])]
    mistakes = f"Commonest mistakes: {', '.join(said[:NUM_MISTAKES])}." if said else "No mistakes."
    about = (
        f"{total} test images{_drawn(look)}, named by a vote of their {k} nearest among {len(bank.ids)} training images"
        f" (T {TEMPERATURE}): {right / total:.1%} right, 95% interval {low:.1%} to {high:.1%}. A quick look on few"
        " images, not a judgement."
    )
    return Exhibit(chart=chart, words=mistakes, about=about)


def layout(look: Look) -> Exhibit:
    """Features of test images in the plane."""
    few = look.specimens.mapped
    if len(few.ids) < 5:
        raise UserError(f"{plural(len(few.ids), 'image')} are too few to lay out")
    title = f"t-SNE of features of {look.story.label}"
    chart = scatter(plane(look.mapped()), few.labels, look.specimens.classes, title=title)
    kind = f"Features: {look.kind}." if look.kind else ""
    return Exhibit(chart=chart, about=f"{len(few.ids)} test images{_drawn(look)}. {kind}")


def _drawn(look: Look) -> str:
    shown, num_all = len(look.specimens.classes), look.specimens.num_all_classes
    return f" of {shown} of the {num_all} classes" if shown < num_all else ""


PARTS = (
    EncoderPart(
        title="Confusion",
        about="Rows: what the image is. Columns: what its neighbours say. The darker, the larger the share of the row.",
        make=confusion,
        half=True,
    ),
    EncoderPart(
        title="Map of features",
        about="t-SNE of the features of test images (perplexity 30): neighbours stay neighbours; distances between far"
        " groups mean nothing. The classes play no part in the layout.",
        make=layout,
        half=True,
    ),
)
