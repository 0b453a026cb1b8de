from result_files import some_result

from eyespot.eval.results.result import Score
from eyespot.eval.results.tables import (
    MOST_CLASSES,
    block_metric,
    by_depth,
    class_metric,
    class_table,
    depth_table,
    score_table,
)


def test_a_row_for_each_result():
    header, rows = score_table([some_result(), some_result(name="raw pixels", accuracy=0.5, interval=(0.25, 0.75))])
    assert header == ["", "accuracy", "95% interval", "chosen"]
    assert rows[0] == ["mae_tiny, step 12", "90.00%", "60.00% to 98.00%", "cls, k 20"]
    assert rows[1][:3] == ["raw pixels", "50.00%", "25.00% to 75.00%"]


def test_scores_that_only_some_results_have():
    one, other = some_result(scores={"mAP": Score(value=0.5)}), some_result(scores={"a/b/c": Score(value=0.25)})
    header, rows = score_table([one, other])
    assert header[3:-1] == ["mAP", "a/b/c"]
    assert [row[3:-1] for row in rows] == [["0.500", ""], ["", "0.250"]]
    spread = some_result(accuracy=None, scores={"rankme": Score(value=3.0), "cls/rankme/x": Score(value=4.0)})
    assert score_table([spread])[0][0] == ""


def test_other_scores_stand_beside_the_accuracy():
    scores = {"recall@5": Score(value=0.95, interval=(0.9, 1.0)), "mAP": Score(value=0.61234)}
    header, (row,) = score_table([some_result(protocol="retrieval", scores=scores)], digits=1)
    assert header == ["", "recall@1", "95% interval", "recall@5", "mAP", "chosen"]
    assert row[1:] == ["90.0%", "60.0% to 98.0%", "95.0%", "0.612", "cls, k 20"]


def test_what_is_no_share_is_shown_with_its_interval():
    scores = {
        "perplexity": Score(value=8.25, interval=(8.0, 8.5)),
        "perplexity, counted words": Score(value=1234.5, interval=(1200.0, 1300.0)),
        "gain, nats a token": Score(value=-0.125, interval=(-0.25, 0.0)),
    }
    header, (row,) = score_table([some_result(protocol="captions", scores=scores)])
    assert header[1:-1] == ["likelier beside its own image", "95% interval", *scores]
    assert row[3:-1] == ["8.250 (8.000 to 8.500)", "1,234 (1,200 to 1,300)", "-0.125 (-0.250 to 0.000)"]


def test_numbers_of_features_stand_below_each_other():
    nothing = {"protocol": "unlabeled", "accuracy": None, "interval": None, "correct": None, "num_correct": None}
    scores = {"cls/rankme": 5.25, "cls/alignment": 1.5, "mean/rankme": 12.0, "mean/dead_dimensions": 0.125}
    results = [
        some_result(**nothing, scores={name: Score(value=value) for name, value in scores.items()}),
        some_result(**nothing, name="raw pixels", role="pixels", scores={"pixels/rankme": Score(value=0.0)}),
    ]
    header, rows = score_table(results)
    assert header == ["", "mae_tiny, step 12: cls", "mae_tiny, step 12: mean", "raw pixels"]
    assert rows == [
        ["effective rank (RankMe)", "5.250", "12.0", "0.000"],
        ["dead dimensions", "", "12.5%", ""],
        ["alignment within classes", "1.500", "", ""],
    ]


def test_blocks_stand_below_each_other():
    metrics = {block_metric(block, kind): block / 100 for block in (12, 2, 1) for kind in ("cls", "mean")}
    trained = some_result(metrics=metrics | {"layers/pixels": 0.5})
    shallow = some_result(name="resnet", metrics={block_metric(2, "mean"): 0.125})
    assert by_depth(trained)["cls"] == [(1, 0.01), (2, 0.02), (12, 0.12)]
    header, rows = depth_table([trained, shallow, some_result()], digits=1)
    assert header == ["block", "mae_tiny, step 12: cls", "mae_tiny, step 12: mean", "resnet: mean"]
    assert rows == [["1", "1.0%", "1.0%", ""], ["2", "2.0%", "2.0%", "12.5%"], ["12", "12.0%", "12.0%", ""]]
    assert depth_table([some_result()])[1] == []


def test_classes_stand_below_each_other_and_of_many_those_least_known():
    metrics = {class_metric(number, 4, name): share for number, (name, share) in enumerate([("a: b", 0.5), ("c", 1.0)])}
    header, rows = class_table([some_result(metrics=metrics), some_result(name="random", metrics={})])
    assert header == ["class", "images", "mae_tiny, step 12", "random"]
    assert rows == [["a: b", "4", "50.0%", ""], ["c", "4", "100.0%", ""]]
    many = {class_metric(number, 1, str(number)): number / 100 for number in range(100)}
    assert [row[0] for row in class_table([some_result(metrics=many)])[1]] == list(map(str, range(MOST_CLASSES)))
    assert class_table([some_result()])[1] == []


def test_a_rank_is_no_share():
    scores = {"median rank (image asks)": Score(value=17.5), "mAP": Score(value=1.0)}
    _, (row,) = score_table([some_result(scores=scores)])
    assert row[3:5] == ["17.5", "1.000"]
