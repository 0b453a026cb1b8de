"""Distillation from the command line: any teacher, kept by the run; students that load as any other encoder."""

import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from eyespot.cluster.cli import main
from eyespot.cluster.config_files.request import asked
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.encoders.subject import subjects_of
from eyespot.pretrain.checkpoints import reader
from eyespot.pretrain.checkpoints.folders import newest
from eyespot.pretrain.loop.initial_weights import first_objective
from eyespot.pretrain.networks.encoders import encode
from eyespot.pretrain.networks.fixed.fixed_teacher import fixed_teacher_of
from eyespot.pretrain.run_json import load_run
from eyespot.pretrain.run_record import RunRecord

SHORT = [
    "--data.batch-size",
    "32",
    "--optim.warmup-steps",
    "0",
    "--no-track",
    "--device",
    "cpu",
    "--picture-every",
    "0",
]
STUDENTS = "conv=test_resnet"


def run_of(words):
    return asked(words.split(), "eyespot pretrain").with_flags()


def distill(digits: Path, run: Path, teacher: Path, *words: str) -> int:
    said = ["--data.shards", str(digits), "--run-dir", str(run), "--objective.teacher.model", str(teacher)]
    return main(["pretrain", "distill_tiny", *said, "--objective.students", STUDENTS, *SHORT, "--steps", "4", *words])


@pytest.fixture(scope="module")
def teacher(digits, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    said = ["--data.shards", str(digits), "--run-dir", str(folder), *SHORT, "--steps", "2"]
    assert main(["pretrain", "classify_tiny", *said]) == 0
    return folder


@pytest.fixture(scope="module")
def whole(digits, teacher, tmp_path_factory) -> Path:
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert distill(digits, folder, teacher) == 0
    return folder


@pytest.fixture
def half(digits, teacher, tmp_path) -> Path:
    """One that stopped after two, and whose teacher is gone since."""
    moved = shutil.copytree(teacher, tmp_path / "teacher")
    assert distill(digits, tmp_path / "half", moved, "--stop-after", "2") == 0
    shutil.rmtree(moved)
    return tmp_path / "half"


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    folder = newest(run)
    assert folder is not None
    return reader.read_module(folder)


def test_a_run_names_its_teacher_and_keeps_it_once(whole, teacher):
    run, record = load_run(whole)[1], RunRecord.read(whole / "run.json")
    before = load_run(teacher)[1]
    found = run.objective.teacher
    assert (found.name, found.patch_size) == (before.encoder.name, before.encoder.patch_size)
    assert (run.data.mean, run.data.std) == RunRecord.read(teacher / "run.json").mean_and_std(teacher)
    assert record.teacher is not None and record.teacher["origin"] == "classify_tiny, step 2"
    kept, checkpoint = load_file(whole / "teacher.safetensors"), newest(teacher)
    assert checkpoint is not None
    theirs = reader.read_encoder(checkpoint)
    assert kept.keys() == theirs.keys() and all(torch.equal(kept[name], theirs[name]) for name in kept)
    assert not [name for name in tensors_of(whole) if "teacher" in name]


def test_a_resumed_run_has_the_same_teacher_and_becomes_the_same(digits, half, whole):
    gone = half.parent / "teacher"
    assert distill(digits, half, gone, "--resume", "auto") == 0
    ours, theirs = tensors_of(half), tensors_of(whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_branch_takes_the_teacher_along(digits, half, whole, tmp_path):
    checkpoint = newest(half)
    assert distill(digits, tmp_path / "branch", half.parent / "teacher", "--resume", str(checkpoint)) == 2  # is gone
    shutil.copytree(whole, half.parent / "teacher")  # whatever is found there now
    words = ["pretrain", "--from", str(half), "--run-dir", str(tmp_path / "branch"), "--resume", str(checkpoint)]
    assert main(words) == 0
    assert (tmp_path / "branch/teacher.safetensors").read_bytes() == (half / "teacher.safetensors").read_bytes()
    ours, theirs = tensors_of(tmp_path / "branch"), tensors_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("change", "message"), [("other", "the run began with"), ("none", "put the file back")])
def test_another_teacher_is_one_line(digits, half, capsys, change, message):
    path = half / "teacher.safetensors"
    if change == "other":
        tensors = load_file(path)
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, path)
    else:
        path.unlink()
    assert distill(digits, half, half.parent / "teacher", "--resume", "auto") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if "Traceback" in line]) == 0
    assert said[-1].count("teacher.safetensors") == 1 and message in said[-1]


def test_every_student_is_judged_and_released_as_any_other_encoder(digits, whole, tmp_path, capsys):
    ours, theirs = (subjects_of(f"{whole}{student}", seed=0)[0] for student in ("", "@conv"))
    assert (ours.origin["encoder"], theirs.origin["encoder"]) == ("test_vit", "test_resnet")
    held = tensors_of(whole)
    for name, tensor in theirs.encoder.state_dict().items():
        assert torch.equal(tensor, held[f"students.conv.{name}"])
    assert main(["eval", "knn", f"{whole}@conv", str(digits), "--device", "cpu"]) == 0
    out = tmp_path / "conv"
    capsys.readouterr()
    words = ["release", str(whole), "--license", "apache-2.0", "--allow-dirty"]
    assert main([*words, "--out", str(tmp_path / "own")]) == 2  # what was judged is the other student
    assert "has no evaluation" in capsys.readouterr().err
    assert main([*words, "--student", "conv", "--out", str(out)]) == 0
    released = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        mine, their = encode(released, images), encode(theirs.encoder, images)
    assert all(torch.equal(mine[kind], their[kind]) for kind in their)
    provenance, card = json.loads((out / "provenance.json").read_text()), (out / "README.md").read_text()
    kept = RunRecord.read(whole / "run.json").teacher
    assert provenance["teacher"] == kept and provenance["student"] == "conv" and provenance["results"]
    assert kept is not None and "**teacher**: classify_tiny, step 2" in card and kept["sha256"] in card


def test_a_student_that_is_not_there_is_one_line(whole, teacher):
    with pytest.raises(UserError, match=r"student big \(RUN@big\): the run has none of that name; its further .* conv"):
        subjects_of(f"{whole}@big", seed=0)
    with pytest.raises(UserError, match=r"student big .* it trained one encoder only"):
        subjects_of(f"{teacher}@big", seed=0)


def test_a_further_student_is_gone_on_with_and_teaches(whole, tmp_path):
    expected = {name: tensor for name, tensor in tensors_of(whole).items() if name.startswith("students.conv.")}
    run = run_of(f"simclr_tiny --start.model {whole}@conv --run-dir {tmp_path}/run")
    assert (run.encoder.name, run.start.prefix) == ("test_resnet", "students.conv.")
    begun = first_objective(run, torch.arange(10)).encoder.state_dict()
    run = run_of(f"distill_tiny --objective.teacher.model {whole}@conv --run-dir {tmp_path}/run")
    teacher = fixed_teacher_of(first_objective(run, torch.arange(10)))
    assert teacher is not None and teacher.config.name == "test_resnet"
    for found in (begun, dict(teacher.encoder.named_parameters())):
        assert all(torch.equal(tensor, expected[f"students.conv.{name}"]) for name, tensor in found.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", r"objective\.teacher\.model '': who teaches\?"),
        ("--objective.teacher.model resnet1", r"objective\.teacher\.model 'resnet1': .*close names"),
        ("--objective.teacher.model test_vit --objective.teacher.weights no.safetensors", r"teacher\.weights no"),
        (
            "--objective.teacher.model vit_small_patch14_dinov2",
            r"teacher, encoder\.image_size 32: is no multiple of .*14",
        ),
        ("--objective.teacher.model TEACHER --data.normalize imagenet", r"data\.normalize imagenet: the teacher"),
        ("--objective.teacher.model TEACHER --objective.students a=test_vit a=test_vit2", "student is called a"),
    ],
)
def test_what_cannot_begin_is_one_line_and_leaves_no_folder(digits, teacher, tmp_path, capsys, words, message):
    run = tmp_path / "run"
    said = ["--data.shards", str(digits), "--run-dir", str(run), *SHORT, "--encoder.no-small-stem"]
    asked_for = words.replace("TEACHER", str(teacher)).split()
    assert main(["pretrain", "distill_r18_cifar10", *said, "--encoder.name", "test_resnet", *asked_for]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, line) and not run.exists()


def test_a_teacher_of_timms_sets_its_normalisation_and_sees_the_students_size(tmp_path):
    run = run_of("distill_tiny --objective.teacher.model test_vit.r160_in1k --objective.teacher.weights f.safetensors")
    assert (run.objective.teacher.name, run.encoder.name, run.encoder.image_size) == ("test_vit", "test_vit", 16)
    assert run.data.mean == (0.5, 0.5, 0.5)
