import shutil

import numpy as np
from relabelled import rewrite_labels

from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.report.sample_images import MAX_CLASSES, NUM_PICTURED, choose_specimens


def test_with_labels_they_come_from_both_splits(digits):
    found = choose_specimens(ShardFolder.find(digits))
    assert (found.mapped.shards.path, found.bank.shards.path) == (digits / "test", digits / "train")
    assert len(set(found.pictured.labels)) == NUM_PICTURED == len(found.pictured.ids)
    assert set(found.pictured.ids) <= set(found.mapped.ids)
    assert (
        len(set(found.mapped.ids)) == len(found.mapped.ids) and len(set(found.bank.ids)) == len(found.bank.ids) == 1000
    )
    again = choose_specimens(ShardFolder.find(digits))
    assert np.array_equal(again.mapped.ids, found.mapped.ids) and np.array_equal(again.bank.ids, found.bank.ids)


def test_of_many_classes_some_are_drawn(digits, tmp_path):
    folder = tmp_path / "many"
    shutil.copytree(digits, folder)
    for split in ("train", "test"):
        rewrite_labels(folder / split, lambda labels: labels + 10 * (np.arange(len(labels)) % 3))
        manifest = folder / split / "manifest.json"
        names = ", ".join(f'"c{n}"' for n in range(30))
        text = manifest.read_text()
        start, end = text.index("[", text.index('"classes"')), text.index("]", text.index('"classes"'))
        manifest.write_text(f"{text[:start]}[{names}{text[end:]}")
    found = choose_specimens(ShardFolder.find(folder))
    assert (len(found.classes), found.num_all_classes) == (MAX_CLASSES, 30)
    assert set(found.mapped.labels) == set(range(MAX_CLASSES)) == set(found.bank.labels)


def test_without_labels_no_image_is_in_both(digits, tmp_path):
    shutil.copytree(digits / "test", tmp_path / "plain")
    rewrite_labels(tmp_path / "plain", lambda labels: labels * 0 - 1)
    found = choose_specimens(ShardFolder.find(tmp_path / "plain"))
    assert found.classes == [] and not set(found.mapped.ids) & set(found.bank.ids)
    assert set(found.pictured.ids) <= set(found.mapped.ids)
