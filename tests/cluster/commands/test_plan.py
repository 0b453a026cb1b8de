"""eyespot plan as a person meets it."""

import json

import pytest

from eyespot.cluster.cli import main


def refuse(capsys, *words: str) -> str:
    """The one line that the command answers, with exit code 2."""
    assert main(["plan", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--gpus", "8"], "recipe: missing before --gpus"),
        (["mae_tinny"], "perhaps you meant mae_tiny"),
        (["mae_tiny", "--gpus", "12"], "gpus 12: not a multiple of node_gpus 8; 16 would be"),
        (["mae_tiny", "--gpus", "24"], "data.batch_size 256: cannot be dealt evenly to 24 GPUs; 264 could"),
        (["mae_tiny", "--gpu", "h10"], "gpu 'h10': unknown; perhaps you meant h100"),
        (["mae_tiny", "--gpu-tflops", "-1"], "gpu_tflops -1.0: must be above 0"),
        (["mae_tiny", "--engine", "zero"], "--engine"),
        (["simclr_r50_in1k", "--engine", "deepspeed"], "optim.name 'lars'"),
        (["mae_tiny", "--gpu-memory-gb", "1.67"], "GB for one image at a time do not fit into"),
    ],
)
def test_wrong_words_are_one_line(words, answer, capsys):
    assert answer in refuse(capsys, *words)


def test_tables_picture_and_json_say_the_same(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = ["plan", "simclr_tiny", "--gpus", "16", "--engine", "fsdp", "--fsdp.shard-over", "node"]
    assert main([*words, "--plot", str(tmp_path / "new" / "scaling.png"), "--data.shards", "data/mine"]) == 0
    page, then = capsys.readouterr()
    assert then.startswith("next: eyespot doctor simclr_tiny --data.shards data/mine --run-dir RUN ")
    assert (tmp_path / "new" / "scaling.png").read_bytes()[:4] == b"\x89PNG"
    assert max(len(line) for line in page.splitlines()) <= 80
    for part in ("Memory per GPU", "most that fit over all GPUs", "gradients between nodes", "Scaling", "Assumptions"):
        assert part in page
    assert main([*words, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["batch"] == {
        "global": 256,
        "micro": 16,
        "accumulate": 1,
        "largest_micro": values["batch"]["largest_micro"],
    }
    assert f"{values['batch']['largest_micro']['plain'] * 16:,}" in page
    assert [row["gpus"] for row in values["scaling"]["weak"]] == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert values["gpu_hours"] == pytest.approx(16 * 300 * values["step_seconds"]["total"] / 3600)


def test_a_config_file_is_planned_and_blamed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text('recipe = "mae_tiny"\n[data]\nbatch_size = 0\n')
    assert "run.toml:3: data.batch_size 0: must be 1 or more" in refuse(capsys, "--config", "run.toml", "--gpus", "8")
    (tmp_path / "run.toml").write_text('recipe = "mae_tiny"\ngpus = 8\n')
    assert "run.toml:2: gpus: there is no such setting" in refuse(capsys, "--config", "run.toml", "--print-config")
    (tmp_path / "run.toml").write_text('recipe = "mae_tiny"\n')
    assert "--print-config: is of eyespot pretrain" in refuse(capsys, "--config", "run.toml", "--print-config")
