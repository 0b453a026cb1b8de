"""Flags of ``pretrain``, ``eval``, ``plan`` and others: numbers, names and files that make no sense."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from hostile.case import TRAIN, Case, Room, Wants, Words

JUDGED = ["eval", "knn", "run", "shards", "--out", "judged"]
VALUES: dict[str, tuple[Wants, list[str]]] = {
    "steps-0": ("refused", ["--steps", "0"]),
    "steps-below-0": ("refused", ["--steps", "-3"]),
    "steps-half": ("refused", ["--steps", "2.5"]),
    "steps-1e3": ("refused", ["--steps", "1e3"]),
    "steps-10^30": ("refused", ["--steps", "1" + "0" * 30, "--stop-after", "1"]),
    "steps-of-5000-digits": ("refused", ["--steps", "1" * 5000]),
    "steps-nothing": ("refused", ["--steps", ""]),
    "steps-arabic": ("either", ["--steps", "\u0663"]),
    "lr-nan": ("refused", ["--optim.lr", "nan"]),
    "lr-inf": ("refused", ["--optim.lr", "inf"]),
    "lr-0": ("refused", ["--optim.lr", "0"]),
    "lr-below-0": ("refused", ["--optim.lr", "-1e-3"]),
    "lr-1e30": ("failed", ["--optim.lr", "1e30"]),
    "lr-1e400": ("refused", ["--optim.lr", "1e400"]),
    "lr-1e-400": ("refused", ["--optim.lr", "1e-400"]),
    "lr-text": ("refused", ["--optim.lr", "fast"]),
    "min-lr-nan": ("refused", ["--optim.min-lr", "nan"]),
    "weight-decay-inf": ("refused", ["--optim.weight-decay", "inf"]),
    "betas-one": ("refused", ["--optim.betas", "0.9", "1.0"]),
    "betas-three": ("refused", ["--optim.betas", "0.9", "0.9", "0.9"]),
    "betas-nan": ("refused", ["--optim.betas", "nan", "0.9"]),
    "clip-nan": ("refused", ["--optim.clip", "nan"]),
    "clip-0": ("refused", ["--optim.clip", "0"]),
    "optimizer-unknown": ("refused", ["--optim.name", "adamax"]),
    "warmup-10^9": ("either", ["--optim.warmup-steps", "1000000000"]),
    "decay-at-nan": ("refused", ["--optim.decay-at", "nan"]),
    "seed-below-0": ("refused", ["--seed", "-1"]),
    "seed-2^70": ("either", ["--seed", str(2**70)]),
    "seed-2^64": ("either", ["--seed", str(2**64)]),
    "batch-0": ("refused", ["--data.batch-size", "0"]),
    "batch-1": ("either", ["--data.batch-size", "1"]),
    "batch-10^9": ("refused", ["--data.batch-size", "1000000000"]),
    "batch-10^30": ("refused", ["--data.batch-size", "1" + "0" * 30]),
    "accumulate-7": ("refused", ["--data.accumulate", "7"]),
    "threads-10^6": ("either", ["--data.num-threads", "1000000"]),
    "bad-fraction-nan": ("refused", ["--data.max-bad-fraction", "nan"]),
    "mean-alone": ("refused", ["--data.mean", "0", "0", "0"]),
    "std-0": ("refused", ["--data.mean", "0", "0", "0", "--data.std", "0", "0", "0"]),
    "mean-nan": ("refused", ["--data.mean", "nan", "0", "0", "--data.std", "1", "1", "1"]),
    "std-1e-45": ("failed", ["--data.mean", "0", "0", "0", "--data.std", "1e-45", "1", "1"]),
    "shards-nothing": ("refused", ["--data.shards", ""]),
    "shards-nowhere": ("refused", ["--data.shards", "not/there"]),
    "shards-device": ("refused", ["--data.shards", "/dev/null"]),
    "shards-nul": ("refused", ["--data.shards", "a\tb\x1b[31m"]),
    "encoder-unknown": ("refused", ["--encoder.name", "vit_tinny"]),
    "encoder-nothing": ("refused", ["--encoder.name", ""]),
    "encoder-hub": ("refused", ["--encoder.name", "hf-hub:timm/resnet18.a1_in1k"]),
    "encoder-folder": ("refused", ["--encoder.name", "local-dir:/etc"]),
    "encoder-escapes": ("refused", ["--encoder.name", "\x1b[31mresnet18"]),
    "encoder-no-patches": ("refused", ["--encoder.name", "resnet10t"]),
    "image-size-0": ("refused", ["--encoder.image-size", "0"]),
    "image-size-1": ("refused", ["--encoder.image-size", "1"]),
    "image-size-25": ("refused", ["--encoder.image-size", "25"]),
    "image-size-10^6": ("refused", ["--encoder.image-size", "1000000"]),
    "image-size-10^9": ("refused", ["--encoder.image-size", "1000000000"]),
    "patch-size-0": ("refused", ["--encoder.patch-size", "0"]),
    "patch-size-1000": ("refused", ["--encoder.patch-size", "1000"]),
    "small-stem": ("refused", ["--encoder.small-stem"]),
    "drop-path-1": ("refused", ["--encoder.drop-path", "1"]),
    "drop-path-nan": ("refused", ["--encoder.drop-path", "nan"]),
    "mask-ratio-0": ("refused", ["--objective.mask-ratio", "0"]),
    "mask-ratio-1": ("refused", ["--objective.mask-ratio", "1"]),
    "mask-ratio-nan": ("refused", ["--objective.mask-ratio", "nan"]),
    "decoder-dim-0": ("refused", ["--objective.decoder-dim", "0"]),
    "decoder-dim-33": ("either", ["--objective.decoder-dim", "33"]),
    "decoder-dim-10^8": ("refused", ["--objective.decoder-dim", "100000000"]),
    "decoder-depth-10^6": ("refused", ["--objective.decoder-depth", "1000000"]),
    "scale-backwards": ("refused", ["--objective.view.scale", "1.0", "0.2"]),
    "scale-0": ("refused", ["--objective.view.scale", "0", "0"]),
    "scale-nan": ("refused", ["--objective.view.scale", "nan", "1"]),
    "save-every-0": ("refused", ["--save-every", "0"]),
    "log-every-0": ("refused", ["--log-every", "0"]),
    "keep-1": ("refused", ["--keep-checkpoints", "1"]),
    "stop-after-0": ("refused", ["--stop-after", "0"]),
    "timeout-nan": ("refused", ["--rank-timeout-seconds", "nan"]),
    "engine-unknown": ("refused", ["--engine", "magic"]),
    "precision-fp8": ("refused", ["--precision", "fp8"]),
    "device-cuda": ("refused", ["--device", "cuda"]),
    "resume-nowhere": ("refused", ["--resume", "not/there"]),
    "resume-nothing": ("refused", ["--resume", ""]),
    "resume-device": ("refused", ["--resume", "/dev/zero"]),
    "run-dir-a-file": ("refused", ["--run-dir", "shards/train/manifest.json"]),
    "run-dir-proc": ("refused", ["--run-dir", "/proc/x"]),
    "run-dir-long": ("refused", ["--run-dir", "x" * 300]),
    "run-dir-nothing": ("either", ["--run-dir", ""]),
    "run-dir-escapes": ("either", ["--run-dir", "\x1b[31mred"]),
    "flag-unknown": ("refused", ["--no-such-flag", "3"]),
    "flag-escapes": ("refused", ["--\x1b[31mred", "3"]),
    "a-word-more": ("refused", ["more"]),
    "flag-without-value": ("refused", ["--steps"]),
    "track-unreachable": ("either", ["--track", "--experiment", "\x1b[31mred"]),
}
IDS: dict[str, tuple[Wants, bytes]] = {
    "nothing": ("refused", b""),
    "text": ("refused", b"one\ntwo\n"),
    "below-0": ("refused", b"-1\n0\n"),
    "beyond": ("refused", b"0\n99999999\n"),
    "twice": ("either", b"1\n1\n" + b"".join(b"%d\n" % n for n in range(2, 40))),
    "10^30": ("refused", b"1" + b"0" * 30 + b"\n"),
    "binary": ("refused", bytes(range(256)) * 10),
    "windows": ("either", b"".join(b"%d\r\n" % n for n in range(40))),
    "too-few": ("refused", b"1\n2\n"),
}
DEEPSPEED: dict[str, tuple[Wants, bytes]] = {
    "nothing": ("refused", b""),
    "list": ("refused", b"[1]"),
    "deep": ("refused", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "cut": ("refused", b'{"zero_optimization": {'),
    "binary": ("refused", b"\xff\xfe" * 50),
    "wrong-kind": ("refused", b'{"zero_optimization": "yes"}'),
    "stage-9": ("refused", b'{"zero_optimization": {"stage": 9}}'),
    "batch-text": ("refused", b'{"train_batch_size": "many"}'),
    "fp16-list": ("refused", b'{"fp16": [1]}'),
    "unknown": ("either", b'{"no_such_setting": 1}'),
}


def trained(flags: Sequence[str], more: Callable[[Room], Any] | None = None) -> Any:
    def make(room: Room) -> Sequence[Words]:
        room.take("shards")
        if more is not None:
            more(room)
        return ([*TRAIN, *flags],)

    return make


def cases() -> list[Case]:
    """All of this file."""
    found = [_case(name, wants, trained(flags)) for name, (wants, flags) in VALUES.items()]
    for option in ("--data.ids", "--data.labeled-ids"):
        for name, (wants, content) in IDS.items():
            if option == "--data.ids" or name in ("text", "beyond"):
                asked = wants if option == "--data.ids" or name != "too-few" else "either"
                make = trained([option, "ids"], lambda room, content=content: (room / "ids").write_bytes(content))
                found.append(_case(f"{option[7:]}-{name}", asked, make, "ids|samples"))
    found.append(
        _case("ids-a-pipe", "refused", trained(["--data.ids", "ids"], lambda room: os.mkfifo(room / "ids")), "ids")
    )
    for name, (wants, content) in DEEPSPEED.items():
        make = trained(
            ["--engine", "deepspeed", "--deepspeed.options", "options.json"],
            lambda room, content=content: (room / "options.json").write_bytes(content),
        )
        found.append(_case(f"deepspeed-{name}", wants, make, "deepspeed|options"))
    return [*found, *_recipes(), *_others()]


def _case(name: str, wants: Wants, make: Any, says: str = "", **options: Any) -> Case:
    return Case(kind="flags", name=name, wants=wants, make=make, says=says, **options)


def _recipes() -> list[Case]:
    names = (
        "",
        "mae_tinny",
        "os:getcwd",
        "os:abort2",
        "../x:y",
        "mae_tiny ",
        "\x1b[31mred",
        ":",
        "x:",
        "x" * 5000,
        "\u202emae",
    )
    found = [
        _case(
            f"recipe-{name.strip()[:9].encode('unicode_escape').decode()}-{number}",
            "refused",
            lambda room, name=name: (["pretrain", name, *TRAIN[2:]],),
            "recipe",
        )
        for number, name in enumerate(names)
    ]
    commands = ("", "pretain", "\x1b[31m", "--no", "-", "x" * 5000)
    return [
        *found,
        *(_case(f"command-{n}", "refused", lambda room, name=name: ([name],)) for n, name in enumerate(commands)),
    ]


def of(words: Sequence[str]) -> Any:
    return lambda room: (room.take("shards"), room.take("run"), (words,))[2]


OTHERS_TABLE: dict[str, tuple[Wants, Sequence[str], str]] = {
    "eval-image-size-0": ("refused", [*JUDGED, "--image-size", "0"], "image.size"),
    "eval-image-size-10^6": ("refused", [*JUDGED, "--image-size", "1000000"], "image.size"),
    "eval-image-size-25": ("either", [*JUDGED, "--image-size", "25"], "size"),
    "eval-seed-2^70": ("either", [*JUDGED, "--seed", str(2**70)], "seed"),
    "eval-seed-below-0": ("either", [*JUDGED, "--seed", "-1"], "seed"),
    "eval-protocol-unknown": ("refused", ["eval", "magic", "run", "shards"], ""),
    "eval-model-unknown": ("refused", ["eval", "knn", "vit_tinny", "shards"], "vit_tinny"),
    "eval-model-nothing": ("refused", ["eval", "knn", "", "shards"], "model"),
    "eval-model-a-device": ("refused", ["eval", "knn", "/dev/zero", "shards"], "model"),
    "eval-model-of-the-hub": ("refused", ["eval", "knn", "hf-hub:evil/model", "shards"], "model"),
    "eval-model-escapes": ("refused", ["eval", "knn", "\x1b[31mx", "shards"], "model"),
    "eval-shots-0": ("refused", ["eval", "low-shot", "run", "shards", "--shots", "0"], "shots"),
    "eval-shots-nan": ("refused", ["eval", "low-shot", "run", "shards", "--shots", "nan%"], "shots"),
    "eval-shots-10^9": ("refused", ["eval", "low-shot", "run", "shards", "--shots", "1000000000"], "shots"),
    "eval-draws-10^9": (
        "refused",
        ["eval", "low-shot", "run", "shards", "--shots", "2", "--draws", "1000000000"],
        "draws",
    ),
    "eval-dense-without-masks": ("refused", ["eval", "dense-knn", "run", "shards"], "mask"),
    "eval-out-a-file": ("refused", ["eval", "knn", "run", "shards", "--out", "run/run.json"], "run.json"),
    "plan-gpus-0": ("refused", ["plan", "mae_tiny", "--gpus", "0"], "gpus"),
    "plan-gpus-10^30": ("refused", ["plan", "mae_tiny", "--gpus", "1" + "0" * 30], "gpus"),
    "plan-gpu-unknown": ("refused", ["plan", "mae_tiny", "--gpu", "z9"], "gpu"),
    "plan-memory-nan": ("refused", ["plan", "mae_tiny", "--gpu-memory-gb", "nan"], "memory"),
    "plan-spare-2": ("refused", ["plan", "mae_tiny", "--spare-share", "2"], "spare"),
    "plan-inter-0": ("refused", ["plan", "mae_tiny", "--inter-gb-s", "0"], "inter"),
    "plan-json": ("taken", ["plan", "mae_tiny", "--json"], ""),
    "plan-plot-nowhere": ("either", ["plan", "mae_tiny", "--plot", "no/such/x.png"], "x.png"),
    "show-recipe-unknown": ("refused", ["shards", "show", "shards", "--recipe", "mae_tinny"], "recipe"),
    "show-samples-10^9": (
        "either",
        ["shards", "show", "shards", "--recipe", "mae_tiny", "--samples", "1000000000"],
        "samples",
    ),
    "show-out-odd": ("either", ["shards", "show", "shards", "--recipe", "mae_tiny", "--out", "x.exe"], "x.exe"),
    "show-out-nowhere": (
        "either",
        ["shards", "show", "shards", "--recipe", "mae_tiny", "--out", "no/x.png"],
        "x.png",
    ),
    "recipes-unknown": ("refused", ["recipes", "\x1b[31mx"], ""),
    "report-nothing": ("refused", ["report", "not-there"], "not-there"),
    "report-out-a-folder": ("either", ["report", "run", "--no-look", "--out", "shards"], "shards"),
    "report-out-nowhere": ("refused", ["report", "run", "--no-look", "--out", "/proc/x/y.html"], "y.html"),
    "report-nine-runs": ("refused", ["report", *["run"] * 9, "--no-look"], ""),
    "release-licence-escapes": ("refused", ["release", "run", "--allow-dirty", "--license", "\x1b[31m"], "licen"),
    "release-licence-path": ("refused", ["release", "run", "--allow-dirty", "--license", "../../x"], "licen"),
    "release-name-path": (
        "refused",
        ["release", "run", "--allow-dirty", "--license", "mit", "--name", "../../x\n"],
        "name",
    ),
    "release-checkpoint-up": (
        "refused",
        ["release", "run", "--allow-dirty", "--license", "mit", "--checkpoint", "../../x"],
        "checkpoint",
    ),
    "release-onto": (
        "refused",
        ["release", "run", "--allow-dirty", "--license", "mit", "--out", "shards"],
        "shards",
    ),
    "sync-nowhere": ("refused", ["sync", "not-there"], "not-there"),
    "sync-nobody": ("failed", ["sync", "run", "--uri", "http://127.0.0.1:9"], "127.0.0.1"),
    "sync-uri-garbage": ("refused", ["sync", "run", "--uri", "magic://x\x1b[31m"], "magic"),
    "promote-nobody": ("failed", ["promote", "x", "1", "--alias", "y", "--uri", "http://127.0.0.1:9"], "127.0.0.1"),
    "finetune-unknown": ("refused", ["eval", "finetune", "run", "shards", "--recipe", "no_such"], "recipe"),
    "finetune-flag-unknown": (
        "refused",
        ["eval", "finetune", "run", "shards", "--recipe", "finetune_tiny", "--x", "1"],
        "--x",
    ),
}


def _others() -> list[Case]:

    return [
        _case(name, wants, of(words), says, seconds=120 if wants == "failed" else 60)
        for name, (wants, words, says) in OTHERS_TABLE.items()
    ]
