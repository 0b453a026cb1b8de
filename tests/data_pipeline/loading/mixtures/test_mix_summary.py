"""What a mixture holds, in lines for a person; the command: tests/cluster/commands/test_shards.py."""

from eyespot.data_pipeline.loading.mixtures.mix_summary import mix_summary


def test_each_source_has_its_share_and_ids(digit_shards):
    held_out = digit_shards.parent / "test"
    assert mix_summary(f"{digit_shards}:3,{held_out}:1") == [
        "mixture: train 75 % (1,438 samples), test 25 % (359 samples)",
        f"  train: {digit_shards}",
        "    ids          0 to 1,437",
        "    classes      10, 1,438 samples with a label",
        f"  test: {held_out}",
        "    ids          1,438 to 1,796",
        "    classes      10, 359 samples with a label",
    ]
    assert mix_summary(str(digit_shards)) == []
