"""Confusion and the map of features, of a real encoder on real digits."""

import dataclasses

import numpy as np
import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.protocols.knn import TEMPERATURE
from eyespot.eval.report.class_sections import K, confusion, layout


def slow_vote(queries: np.ndarray, bank: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The weighted vote, one query at a time."""
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    winners = []
    for query in queries:
        similar = bank @ (query / np.linalg.norm(query))
        nearest = np.argsort(-similar)[:K]
        votes = np.bincount(labels[nearest], np.exp(similar[nearest] / TEMPERATURE), num_classes)
        winners.append(votes.argmax())
    return np.array(winners)


def test_the_share_that_is_right_is_that_of_a_slow_vote(look):
    found, few, bank = confusion(look), look.specimens.mapped, look.specimens.bank
    features = look.mapped().double().numpy(), look.bank().double().numpy()
    guesses = slow_vote(*features, bank.labels, len(look.specimens.classes))
    right = (guesses == few.labels).mean()
    shown = float(found.about.split(": ")[1].split("% right")[0]) / 100
    assert shown == pytest.approx(right, abs=0.005)  # of 500; a near tie may fall the other way
    assert found.chart and found.words.startswith("Commonest mistakes: ") and found.words.count("×") == 5


def test_images_without_labels_have_no_confusion(look):
    look.specimens = dataclasses.replace(look.specimens, classes=[])
    with pytest.raises(UserError, match="the images have no labels"):
        confusion(look)


def test_too_few_images_for_a_map(look):
    look.specimens = dataclasses.replace(look.specimens, mapped=look.specimens.mapped.at(np.arange(4)))
    with pytest.raises(UserError, match="4 images are too few to lay out"):
        layout(look)
