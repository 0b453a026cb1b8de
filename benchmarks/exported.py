"""What other forms of an encoder cost: torch, torch.export, ONNX and 8-bit ONNX on the same images; and the server.

    OMP_NUM_THREADS=1 python benchmarks/exported.py

The forms are those that ``eyespot release --pt2 --onnx --int8`` writes, of encoders with random weights, on photographs
of caltech10, one thread each, in batches of 1 and 32. Median over rounds in which all take their turn; the ratio is of
images per CPU-second, which other processes disturb least.

The server answers over loopback HTTP, from its own process's threads: one client that waits for each answer, against
eight at once; beside them the same work without HTTP. Those are images per second of the clock.
"""

import argparse
import http.client
import io
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image
from results import write_results

from eyespot.cluster.serving.batching import Batches
from eyespot.cluster.serving.image_views import ImageViews
from eyespot.cluster.serving.prometheus import Metrics
from eyespot.cluster.serving.server import Limits, Serving, server_of
from eyespot.data_pipeline.augment.views import ViewSpec, center_view
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.release.exports.int8 import quantize
from eyespot.eval.release.exports.onnx_export import export_onnx
from eyespot.eval.release.exports.torch_export import export_pt2
from eyespot.pretrain.networks.encoders import EncoderConfig, encode, make_encoder

FORMS = ("torch", "torch.export", "ONNX", "ONNX, 8 bits")
BATCHES = (1, 32)
HEADER = [
    "encoder",
    "form",
    "MB",
    *(f"images / CPU-s, {n} at once" for n in BATCHES),
    *(f"ratio, {n}" for n in BATCHES),
]
CLIENTS = 8

Run = Callable[[torch.Tensor], object]


@dataclass(kw_only=True, slots=True)
class Job:
    """One encoder."""

    name: str
    size: int


JOBS = (Job(name="vit_tiny_patch16_224", size=96), Job(name="resnet18", size=96))


def views_of_photographs(job: Job, shards: ShardFolder, count: int) -> torch.Tensor:
    spec = LoaderSpec(
        shards=shards, views=ViewSpec(views=(center_view(job.size),)), ids=np.arange(count), batch_size=64
    )
    return torch.cat([batch.views[0].clone() for batch in make_pass(spec)])


def written(encoder: Any, images: torch.Tensor, folder: Path) -> tuple[dict[str, Run], dict[str, float]]:
    """Each form, and its MB on disk."""
    with torch.no_grad():
        golden = {"images": images[:2], "input": images[:2], **encode(encoder, images[:2])}
    pt2, onnx, small = folder / "encoder.pt2", folder / "model.onnx", folder / "model-int8.onnx"
    export_pt2(encoder, golden, pt2)
    export_onnx(encoder, golden, onnx)
    quantize(onnx, images[-256:], small)
    program = torch.export.load(pt2).module()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    def session(path: Path) -> Run:
        runtime = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda batch: runtime.run(None, {"images": batch.numpy()})

    runs: tuple[Run, ...] = (lambda batch: encode(encoder, batch), program, session(onnx), session(small))
    weights = sum(tensor.numel() * tensor.element_size() for tensor in encoder.state_dict().values())
    sizes = (weights, *(path.stat().st_size for path in (pt2, onnx, small)))
    return dict(zip(FORMS, runs, strict=True)), dict(zip(FORMS, (size / 1e6 for size in sizes), strict=True))


def speed(run: Run, images: torch.Tensor, batch: int) -> float:
    """Images per CPU-second."""
    with torch.inference_mode():
        run(images[:batch])
        start = time.process_time()
        for some in images.split(batch):
            run(some)
        return len(images) / (time.process_time() - start)


def forms(job: Job, shards: ShardFolder, num_rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name=job.name, image_size=job.size)).eval().requires_grad_(False)
    images = views_of_photographs(job, shards, 320)
    with tempfile.TemporaryDirectory() as room:
        runs, sizes = written(encoder, images, Path(room))
    rounds: list[dict[str, dict[int, float]]] = []
    for _ in range(num_rounds):
        tried = {1: images[:32], 32: images[:64]}
        rounds.append({form: {n: speed(run, tried[n], n) for n in BATCHES} for form, run in runs.items()})
    median = {form: {n: statistics.median(each[form][n] for each in rounds) for n in BATCHES} for form in runs}
    ratios = {
        form: {n: statistics.median(each[form][n] / each["torch"][n] for each in rounds) for n in BATCHES}
        for form in runs
    }
    return {"job": asdict(job), "mb": sizes, "per_cpu_second": median, "ratio": ratios, "rounds": rounds}


@contextmanager
def serving(job: Job, max_batch: int) -> Iterator[tuple[int, Batches]]:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name=job.name, image_size=job.size)).eval().requires_grad_(False)
    with torch.no_grad():
        kinds = {kind: rows.shape[1] for kind, rows in encode(encoder, torch.zeros(1, 3, job.size, job.size)).items()}
    metrics, limits = Metrics(), Limits()
    views = ImageViews(ViewSpec(views=(center_view(job.size),)), 50_000_000)
    batches = Batches(encoder, views, pixels=views.pixels, max_batch=max_batch, max_wait=0.002, observe=metrics.encoded)
    server = server_of(Serving(batches, {"kinds": kinds}, limits, metrics, None).app(), limits)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1], batches
        server.should_exit = True
        thread.join()


def asked(port: int, files: list[bytes], clients: int) -> float:
    """Requests per second."""
    local = threading.local()

    def one(file: bytes) -> None:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection("127.0.0.1", port)
        local.connection.request("POST", "/embed", file, {"Content-Type": "image/jpeg"})
        answer = local.connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()

    with ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        list(pool.map(one, files))
        return len(files) / (time.perf_counter() - start)


def load(job: Job, files: list[bytes], num_rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name=job.name, image_size=job.size)).eval().requires_grad_(False)
    views = ImageViews(ViewSpec(views=(center_view(job.size),)), 50_000_000)

    def plain() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            for file in files:
                encode(encoder, views(file)[None])
        return len(files) / (time.perf_counter() - start)

    rounds: list[dict[str, float]] = []
    with serving(job, max_batch=8) as (port, _):
        asked(port, files[:8], CLIENTS)
        for _ in range(num_rounds):
            rounds.append({"plain": plain(), "one": asked(port, files, 1), "many": asked(port, files, CLIENTS)})
    median = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    ratios = {name: statistics.median(each[name] / each["one"] for each in rounds) for name in rounds[0]}
    return {"job": asdict(job), "per_second": median, "ratio": ratios, "rounds": rounds}


def photographs(count: int) -> list[bytes]:
    """JPEGs of 320 x 240 pixels, smooth noise."""
    generator = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        stream = io.BytesIO()
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return files


def rows(results: list[dict[str, Any]], loads: list[dict[str, Any]]) -> Iterator[list[str]]:
    for result in results:
        name = f"{result['job']['name']}, {result['job']['size']} px"
        for form in FORMS:
            speeds, ratio = result["per_cpu_second"][form], result["ratio"][form]
            yield [name, form, f"{result['mb'][form]:.1f}", *(f"{speeds[n]:.0f}" for n in BATCHES)] + [
                f"{ratio[n]:.2f}x" for n in BATCHES
            ]
    words = {"plain": "no HTTP, one by one", "one": "served, one client", "many": f"served, {CLIENTS} clients"}
    for result in loads:
        name = f"{result['job']['name']}, {result['job']['size']} px"
        for form, said in words.items():
            speeds = f"{result['per_second'][form]:.0f} / s"
            yield [name, said, "", speeds, "", f"{result['ratio'][form]:.2f}x of one client", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room:
        pack("caltech10", Path(room) / "shards", workers=1)
        shards = ShardFolder.find(Path(room) / "shards", "train")
        results = [forms(job, shards, arguments.rounds) for job in JOBS]
    loads = [load(job, photographs(96), arguments.rounds) for job in JOBS]
    write_results(
        "exported",
        title="An encoder's other forms, and its features over HTTP; one thread, median over interleaved rounds",
        header=HEADER,
        rows=list(rows(results, loads)),
        details={"results": results, "loads": loads},
    )


if __name__ == "__main__":
    main()
