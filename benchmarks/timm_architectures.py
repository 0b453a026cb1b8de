"""All architectures of timm: each trains two steps of SimCLR and is evaluated, or is refused by one line that is true.

    python benchmarks/timm_architectures.py            # the rest; stop it at any time, it goes on where it was
    python benchmarks/timm_architectures.py --again REGEX
    python benchmarks/timm_architectures.py --table    # only writes the table

Each is made and run in a process of its own, with limits of memory and time, by the code that ``eyespot pretrain`` and
``eyespot eval`` run, on images of the smallest of a few sizes that it takes. Its weights are no proper initialisation
but noise of the right size, which is drawn faster. Of architectures above LARGE parameters, one that has the same parts
as a smaller one which was run (the same classes of modules, the same kinds of parameters, the same head) is not run
itself; of others, where it can be told to, a few blocks are run.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import resource
import signal
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, cast

import timm
import torch
from results import RESULTS, machine
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.eval.encoders.subject import encode_all
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import MicroBatch, Settings, make_engine
from eyespot.pretrain.networks.encoders import EncoderConfig, feature_width, make_encoder
from eyespot.pretrain.objectives.simclr import SimCLR
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer
from eyespot.pretrain.optim.unread_parameters import freeze_unread

RECORDS = RESULTS / "timm_architectures.jsonl"
PARTS = Path(tempfile.gettempdir()) / f"timm-{timm.__version__}-parts.jsonl"
TABLE = RESULTS / "timm_architectures.md"
SIZES = (64, 70, 84, 96, 128)
"""Pixels that are tried first; then the architecture's own size."""
LARGE = 300e6
DEPTH = 4
MEMORY_BYTES, CPU_SECONDS, WALL_SECONDS = 9 * 2**30, 150, 900
BATCH_SIZE, STEPS = 2, 2
ALIKE = 1e-3
"""Largest difference of two features that count as the same, as a share of the largest."""


def draw_fast() -> None:
    """Large tensors get noise that was drawn once, at the scale asked for."""
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(0))

    def filled(slow: Any, deviation: Any) -> Any:
        def fill(tensor: Tensor, *numbers: Any, **named: Any) -> Tensor:
            if tensor.numel() < 2**16 or tensor.device.type != "cpu" or not tensor.is_contiguous():
                return slow(tensor, *numbers, **named)
            flat = tensor.data.view(-1)
            for part in flat.split(len(noise)):
                torch.mul(noise[: len(part)], deviation(*numbers, **named), out=part)
            return tensor

        return fill

    tensor_class = cast(Any, torch.Tensor)
    tensor_class.normal_ = filled(tensor_class.normal_, lambda mean=0.0, std=1.0, **_: std)
    tensor_class.uniform_ = filled(
        tensor_class.uniform_, lambda a=0.0, b=1.0, **named: (named.get("to", b) - named.get("from", a)) / 12**0.5
    )
    tensor_class.erfinv_ = filled(tensor_class.erfinv_, lambda: 1.0)


def sizes_of(name: str) -> list[int]:
    """Pixels to try, in this order."""
    own = int(cast(Any, timm.get_pretrained_cfg(name)).input_size[-1])
    return [*(size for size in SIZES if size < own), own]


def examine(name: str) -> dict[str, Any]:
    """Trains and evaluates one architecture: what it gave, or the line that refuses it."""
    refusals = []
    for size in sizes_of(name):
        try:
            return {"size": size, **run_at(name, size), **({"smaller": refusals[-1]} if refusals else {})}
        except UserError as error:
            refusals.append(str(error))
    return {"refused": refusals[-1]}


def examine_shallow(name: str) -> dict[str, Any]:
    """The same with ``DEPTH`` blocks, where the architecture can be told so: a whole one would not fit."""
    whole = timm.create_model
    timm.create_model = lambda name, **options: whole(name, **{"depth": DEPTH, **options})
    answer = examine(name)
    timm.create_model = whole
    return {"depth": DEPTH, **answer} if "kinds" in answer else examine(name)


def run_at(name: str, size: int) -> dict[str, Any]:
    """Two steps of SimCLR on images of ``size`` pixels, and then the features of two."""
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name=name, image_size=size))
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    objective = SimCLR.Config(hidden_dim=32, out_dim=16).build(encoder, size)
    unread = freeze_unread(encoder, objective.read, size)
    world = World(rank=0, size=1, device=torch.device("cpu"))
    optim = OptimConfig(name="sgd", lr=1e-3, momentum=0.0)
    engine = make_engine("ddp", objective, world, lambda module: make_optimizer(module, optim), Settings())
    for step in range(STEPS):
        scalars = engine.forward(MicroBatch(batch=batch(size), seed=step))
        engine.backward(scalars["loss"])
        without = [key for key, value in objective.named_parameters() if value.requires_grad and value.grad is None]
        if without:
            raise RuntimeError(f"no gradient reaches {without[0]} and {len(without) - 1} more")
        norm, applied = engine.step(1e-4)
        if not applied:
            raise RuntimeError(f"the gradient's norm is {norm} in step {step + 1}")
    return {"params": parameters, "unread": unread, **judged(encoder, size), "family": family(encoder)}


def batch(size: int) -> Batch:
    """Two views of two images of noise."""
    ids = torch.arange(BATCH_SIZE)
    views = [torch.randn(BATCH_SIZE, 3, size, size) for _ in range(2)]
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=torch.full_like(ids, -1), seed=0)


def judged(encoder: nn.Module, size: int) -> dict[str, Any]:
    """The kinds of features that evaluation reads, which of them is the encoder's own pooling, and widths."""
    encoder.eval()
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        found = encode_all(encoder, images)
        own = encoder(images)
    own = own if isinstance(own, Tensor) else own[0]
    same = [kind for kind, rows in found.items() if rows.shape == own.shape and alike(rows, own)]
    odd = [kind for kind, rows in found.items() if not rows.isfinite().all()]
    if odd:
        raise RuntimeError(f"features {odd[0]} are not finite")
    first = next(iter(found.values()))
    if first.shape[1] != feature_width(encoder):
        raise RuntimeError(f"features are {first.shape[1]} wide, not {feature_width(encoder)}")
    return {"kinds": {kind: rows.shape[1] for kind, rows in found.items()}, "own": same[0] if same else ""}


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether they are the same but for rounding."""
    return float((one - other).abs().max()) <= ALIKE * float(other.abs().max())


def family(encoder: nn.Module) -> str:
    """timm's file."""
    return type(encoder).__module__.removeprefix("timm.models.").removeprefix("eyespot.pretrain.networks.")


def parts_of(name: str) -> dict[str, Any]:
    """Of an architecture on the meta device: parameters, family, and a digest of what it is made of."""
    with torch.device("meta"):
        encoder = timm.create_model(name, num_classes=0)
    classes = sorted({type(part).__name__ for part in encoder.modules()})
    kinds = sorted({re.sub(r"\d+", "#", key) for key in encoder.state_dict()})
    head = [str(getattr(encoder, key, None)) for key in ("global_pool", "num_prefix_tokens")]
    parts = hashlib.sha256(repr((type(encoder).__name__, classes, kinds, head)).encode()).hexdigest()[:12]
    return {"params": sum(p.numel() for p in encoder.parameters()), "family": family(encoder), "parts": parts}


def guarded(work: Any, name: str) -> dict[str, Any]:
    """``work(name)`` in a process of its own: what it returns, or how it ended."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        ours.close()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        signal.alarm(WALL_SECONDS)
        begin = time.process_time()
        try:
            answer = work(name)
        except BaseException as error:
            answer = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if isinstance(answer, dict):
            answer |= {"cpu_seconds": round(time.process_time() - begin, 1), "peak_gib": round(peak, 1)}
        theirs.send(answer)
        os._exit(0)
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        answer = None
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return answer if answer is not None else {"failed": f"its process ended with {ended}"}


def known(path: Path) -> dict[str, dict[str, Any]]:
    """What was found before; of a name that stands there twice, the last."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {record["name"]: record for record in map(json.loads, lines)}


def note(path: Path, record: dict[str, Any]) -> None:
    """Adds a line."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def look(names: list[str]) -> dict[str, dict[str, Any]]:
    """What each is made of, from a look at all of them that is kept."""
    found = known(PARTS)
    for name in names:
        if name not in found:
            found[name] = {"name": name, **guarded(parts_of, name)}
            note(PARTS, found[name])
    return found


def architectures() -> list[str]:
    """All of timm's; ours, which it gets to know, are no strangers."""
    return [name for name in timm.list_models() if timm.models.model_entrypoint(name).__module__.startswith("timm.")]


def scan(names: list[str], minutes: float) -> None:
    """Examines the names and notes each: first the smallest of those with the same parts, small ones before large."""
    until, parts = time.monotonic() + 60 * minutes, look(architectures())
    ran = {record.get("parts"): name for name, record in known(RECORDS).items() if "kinds" in record}
    smallest: dict[str, str] = {}
    for name in sorted(parts, key=lambda name: parts[name].get("params", 0)):
        smallest.setdefault(parts[name].get("parts", name), name)
    firsts = {name for made, name in smallest.items() if made not in ran}
    for name in sorted(names, key=lambda name: (name not in firsts, parts[name].get("params", 0))):
        if time.monotonic() > until:
            return
        made = {key: value for key, value in parts[name].items() if key != "failed"}
        if made.get("params", 0) > LARGE and (same := ran.get(made.get("parts"))) is not None:
            record = {**made, "as": same}
        else:
            large = made.get("params", 0) > LARGE
            record = {**made, **guarded(examine_shallow if large else examine, name), "params": made.get("params", 0)}
        for key in ("failed", "refused"):
            if "can't allocate memory" in record.get(key, ""):
                record["large"] = f"{record['params'] / 1e6:,.0f} M parameters"
                del record[key]
        if "kinds" in record:
            ran.setdefault(record.get("parts"), name)
        note(RECORDS, record)
        print(
            name,
            record.get("failed") or record.get("refused") or record.get("large") or record.get("as") or "works",
            flush=True,
        )


def write_table() -> None:
    """``timm_architectures.md``: counts by family, then every refusal with its line, and what is special."""
    found, parts = known(RECORDS), known(PARTS)
    ran = {record["parts"]: name for name, record in found.items() if "kinds" in record}
    large = {record["parts"] for record in found.values() if "large" in record}
    for name in architectures():
        made = parts.get(name, {})
        if name not in found and made.get("parts") in ran:
            found[name] = {**made, "as": ran[made["parts"]]}
        elif name not in found and made.get("parts") in large:
            found[name] = {**made, "large": f"{made['params'] / 1e6:,.0f} M parameters"}
    records = [found[name] for name in architectures() if name in found]
    counts = Counter(outcome(record) for record in records)
    said = ", ".join(f"{counts[key]:,} {words}" for key, words in OUTCOMES.items() if counts[key])
    missing = len(architectures()) - len(records)
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        families[record.get("family", "")].append(record)
    lines = [
        "# All architectures of timm",
        "",
        f"timm {timm.__version__}, {machine()}: {len(architectures()):,} names, of which {said}"
        + (f", {missing} not looked at yet." if missing else "."),
        "Made by `benchmarks/timm_architectures.py`, which says what each had to do; all is in the `.jsonl` beside it.",
        "",
        "Features: cls = class token; mean = mean of the patch tokens, or what the architecture pools of its map;",
        "pool = what its own head makes of the tokens, where that is neither. **Bold** = what `encoder(images)` gives.",
        "Without bold: image halves of language models, which have no head and are judged by the mean of their places.",
        "Unread: parameters that SimCLR's features do not reach, and which are frozen.",
        "",
        "| family | names | run | by others | refused | pixels | features | widths | unread |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- | --- | --- |",
        *(family_row(name, members) for name, members in sorted(families.items())),
        "",
        *listed("Refused", [(r["name"], r["refused"]) for r in records if outcome(r) == "refused"]),
        *listed("Too large to be run here", [(r["name"], r["large"]) for r in records if outcome(r) == "large"]),
        *listed("Failed", [(r["name"], r["failed"]) for r in records if outcome(r) == "failed"]),
        *listed("Run with few blocks", [(r["name"], f"{r['depth']} blocks") for r in records if "depth" in r]),
        *listed(
            "Not run, but of the same parts as one that was",
            [(other, ", ".join(names)) for other, names in sorted(represented(records).items())],
        ),
    ]
    TABLE.write_text("\n".join(lines) + "\n")
    RECORDS.write_text("".join(json.dumps(found[name]) + "\n" for name in architectures() if name in found))
    print("\n".join(lines[:3]))


OUTCOMES = {
    "run": "train and are evaluated",
    "as": "have the parts of one that does",
    "refused": "are refused by one line",
    "large": f"do not fit into {MEMORY_BYTES / 2**30:.0f} GiB",
    "failed": "fail",
}


def outcome(record: dict[str, Any]) -> str:
    """Which of ``OUTCOMES`` it is."""
    return "run" if "kinds" in record else next(key for key in ("as", "refused", "large", "failed") if key in record)


def represented(records: list[dict[str, Any]]) -> dict[str, list[str]]:
    """By the name that was run."""
    found: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if "as" in record:
            found[record["as"]].append(record["name"])
    return found


def family_row(name: str, members: list[dict[str, Any]]) -> str:
    """A line of the table."""
    counts = Counter(outcome(member) for member in members)
    run = [member for member in members if "kinds" in member]
    sizes, widths = ({*values} for values in ([m["size"] for m in run], [w for m in run for w in m["kinds"].values()]))
    kinds = {", ".join(f"**{kind}**" if kind == m["own"] else kind for kind in m["kinds"]) for m in run}
    unread = {re.sub(r"\.?\d+", "", key).split(".")[0] for m in run for key in m["unread"]}
    spans = [f"{min(some)} to {max(some)}" if len(some) > 1 else "".join(map(str, some)) for some in (sizes, widths)]
    cells = [name, len(members), *(counts[key] or "" for key in ("run", "as", "refused"))]
    cells += [spans[0], "; ".join(sorted(kinds)), spans[1], ", ".join(sorted(unread))]
    return f"| {' | '.join(map(str, cells))} |"


def listed(title: str, pairs: list[tuple[str, str]]) -> list[str]:
    """A section of the page; nothing where there is nothing to list."""
    return [f"## {title}", "", *(f"- `{name}`: {words}" for name, words in pairs), ""] if pairs else []


def is_left(record: dict[str, Any] | None) -> bool:
    """Whether a name is still to be run: also one that counts as another of the same parts, unless it is large."""
    return record is None or ("as" in record and record.get("params", 0) <= LARGE)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", metavar="REGEX", help="examine these names anew")
    parser.add_argument("--part", default="0/1", help="K/N: every Nth name, from the Kth on")
    parser.add_argument("--minutes", type=float, default=600.0, help="no new one is begun after so many")
    parser.add_argument("--table", action="store_true", help="only write the table")
    asked = parser.parse_args()
    first, step = map(int, asked.part.split("/"))
    names, done = architectures(), known(RECORDS)
    wanted = [n for n in names if (re.search(asked.again, n) if asked.again else is_left(done.get(n)))][first::step]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    draw_fast()
    if not asked.table:
        scan(wanted, asked.minutes)
    write_table()


if __name__ == "__main__":
    main()
