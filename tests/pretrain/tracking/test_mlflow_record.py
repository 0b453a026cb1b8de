from pathlib import Path

from eyespot.pretrain.tracking.mlflow_record import MlflowRecord, flatten, legal_name


def test_flatten():
    nested = {"a": {"b": {"c": None}, "d": [1, 2]}, "e": {}, "f": "x" * 7000, "g%/../h": True}
    flat = flatten(nested)
    assert flat == {"a.b.c": "None", "a.d": "[1, 2]", "e": "{}", "f": "x" * 6000, "h": "True"}


def test_names_are_made_of_letters_that_mlflow_allows():
    assert [legal_name(name) for name in ("a b/c%", "../..", "x" * 300)] == ["a b/c_", "_", "x" * 250]


def test_it_is_read_as_it_was_written(tmp_path: Path):
    record = MlflowRecord(run_key="k", name="n", experiment="e")
    record.update({"lr": 1}, {"recipe": "mae_tiny"})
    record.add_event("rank 1 is slow")
    record.end("KILLED")
    record.write(tmp_path)
    assert MlflowRecord.read(tmp_path) == record and record.end_ms is not None
