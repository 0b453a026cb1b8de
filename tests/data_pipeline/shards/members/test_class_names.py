"""Labels, folders and the names of tars say which class and which split."""

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.class_names import (
    MAX_CLASSES,
    arrange,
    check_one_split,
    classify,
    number_texts,
    split_of,
    splits_of_files,
)


@pytest.mark.parametrize(
    ("texts", "classes", "labels"),
    [
        (["0", "2", "-1", ""], ["0", "1", "2"], [0, 2, -1, -1]),
        (["9", "10", None], [str(number) for number in range(11)], [9, 10, -1]),
        (["003", "1.0", "-100"], ["0", "1", "2", "3"], [3, 1, -1]),
        (["dog", "cat", "-1"], ["cat", "dog"], [1, 0, -1]),
        ([str(10 * MAX_CLASSES), str(9 * MAX_CLASSES)], [str(9 * MAX_CLASSES), str(10 * MAX_CLASSES)], [1, 0]),
        (["caf\\xe9", "caf\\xe8"], ["caf\\xe8", "caf\\xe9"], [1, 0]),
        (["-1", "-1"], [], [-1, -1]),
        (["9" * 5000, "1"], ["1", "9" * 5000], [1, 0]),
    ],
)
def test_labels(texts, classes, labels):
    assert number_texts(texts) == (classes, labels)


def test_labels_win_over_folders_even_where_they_say_that_there_is_none():
    paths = [("a", "1.jpg"), ("b", "2.jpg")]
    assert classify(paths, [None, None])[:2] == (["a", "b"], [0, 1])
    assert classify(paths, ["-1", None])[:2] == ([], [-1, -1])


def test_folders_in_folders():
    paths = [("data", "a", "abbey", "1.jpg"), ("data", "a", "alley", "2.jpg"), ("data", "b", "3.jpg")]
    assert list(arrange(paths).names) == ["a", "a", "b"]
    layout = arrange(paths, "last")
    assert list(layout.names) == ["abbey", "alley", "b"] and layout.num_deeper == 2
    assert "--class-folder top" in layout.notes("last")[0]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("imagenet1k-train-0003.tar", "train"),
        ("coco_val2017_12.tar", "val"),
        ("Test.tar", "test"),
        ("valid/0.tar", "val"),
        ("trainval-0.tar", None),
        ("trains-0.tar", None),
        ("00017.tar", None),
    ],
)
def test_splits_by_name(name, split):
    assert split_of(name) == split


def test_tars_of_several_splits_are_not_one_folder():
    none = arrange([])
    check_one_split("x", ["train-0.tar", "train-1.tar", "extra.tar"], none)
    check_one_split("x", ["test-0.tar", "test-1.tar"], none)
    for tars in (["train-0.tar", "val-0.tar"], ["0.tar", "val-0.tar"], ["a_test.tar", "a_val.tar"]):
        with pytest.raises(UserError, match="several splits by their names"):
            check_one_split("x", tars, none)
    inside = arrange([("train", "a", "1.jpg"), ("test", "a", "2.jpg")])
    with pytest.raises(UserError, match="several splits in folders"):
        check_one_split("x", ["0.tar"], inside)


def test_packing_tells_them_apart():
    assert splits_of_files("x", ["train-0.tar", "val-0.tar"]) == ["train", "test"]
    assert splits_of_files("x", ["train/0.tar", "val/0.tar", "test/0.tar"]) == ["train", "val", "test"]
    assert splits_of_files("x", ["0.tar", "1.tar"]) == [None, None]
    with pytest.raises(UserError, match="not all say of which"):
        splits_of_files("x", ["train-0.tar", "val-0.tar", "1.tar"])
