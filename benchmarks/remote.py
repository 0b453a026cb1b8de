"""Reading an object store: ours, WebDataset's ``pipe:`` and litData, of the same photographs, from the same server.

A real S3 server (SeaweedFS) runs here; a proxy before it counts requests and bytes. Each client is a process of its own
that goes once through all samples, shuffled as it does it; nothing is decoded. CPU is the client's own, with its child
processes (curl), the median of three; without its imports, and without the checksums by which this program compares
what clients have read (ours checks its own besides, and that counts). Resume: at half an epoch a client saves its state
and ends; another one with an empty disk goes on: what it fetched before its first batch, how long that took, and what
it fetched in all until the epoch's end. WebDataset has no state: it begins the epoch anew and leaves out what was seen.

    python benchmarks/remote.py
    python benchmarks/remote.py --litdata PYTHON      with litData, by an interpreter that has it
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "data_pipeline" / "shards" / "caltech10.tar.gz"
BATCH, WINDOW, TIMES = 256, 4, 3
"""Samples of a batch, blocks that ours shuffles together, and how often an epoch is measured."""
Batches = Iterator[list[bytes]]


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


# The clients. Each gives an empty batch when its modules are there, then batches from a position on.


def ours(asked: argparse.Namespace, first: int) -> Batches:
    """Blocks, in the order of a run; the state is the number of samples."""
    import numpy as np

    from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
    from eyespot.data_pipeline.loading.blocks.open_blocks import NodeCache, open_blocks
    from eyespot.data_pipeline.loading.reader import Reader
    from eyespot.data_pipeline.loading.sample_files import SampleFiles
    from eyespot.data_pipeline.order.orders import make_order
    from eyespot.data_pipeline.shards.shard_folder import ShardFolder

    yield []
    shards = ShardFolder(asked.place)
    order = make_order(shards.manifest.num_samples, 0, shuffle_window=WINDOW * 256)
    files = SampleFiles(shards, ViewSpec(views=(RandomView(),)), 0)
    cache = NodeCache(folder=Path(asked.disk)) if asked.disk else None
    starts = range(first, order.num_samples, BATCH)
    plan = (order.ids(start, min(BATCH, order.num_samples - start)) for start in starts)
    blocks = open_blocks(shards, files, None, cache, order.window)
    plan = plan if blocks is None else blocks.ahead(plan, files.rows, order.window)
    reader = Reader(shards, substitute=False, source=blocks)
    for ids, epochs in plan:
        found, read = reader.start(ids, epochs).result()
        assert np.array_equal(found, ids)
        yield read
    reader.close()


def one_by_one(asked: argparse.Namespace, first: int) -> Batches:
    """A request for each sample, 16 at once, in the same order."""
    from concurrent.futures import ThreadPoolExecutor

    from eyespot.data_pipeline.order.orders import make_order
    from eyespot.data_pipeline.shards.shard_folder import ShardFolder

    yield []
    shards = ShardFolder(asked.place)
    order = make_order(shards.manifest.num_samples, 0, shuffle_window=WINDOW * 256)
    with ThreadPoolExecutor(16) as pool:
        for start in range(first, order.num_samples, BATCH):
            rows = shards.index[order.ids(start, min(BATCH, order.num_samples - start))[0]].tolist()
            yield list(pool.map(lambda row: shards.store.read(shards.tar_key(row[0]), row[1], row[1] + row[2]), rows))


def webdataset(asked: argparse.Namespace, first: int) -> Batches:
    """A curl for each shard, a buffer of as many samples as our window has; what was seen is read again."""
    import webdataset as wds

    yield []
    keys = f"{os.environ['AWS_ACCESS_KEY_ID']}:{os.environ['AWS_SECRET_ACCESS_KEY']}"
    sign = f"--aws-sigv4 aws:amz:us-east-1:s3 --user {keys}"
    urls = [f"pipe:curl -sf {sign} {os.environ['AWS_ENDPOINT_URL']}/data/{key}" for key in json.loads(asked.place)]
    data = wds.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(WINDOW * 256, seed=0)
    batch, seen = [], 0
    for sample in data:
        seen += 1
        if seen <= first:
            continue
        batch.append(next(sample[name] for name in ("jpg", "jpeg", "png") if name in sample))
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def litdata(asked: argparse.Namespace, first: int) -> Batches:
    """Its own chunks of 64 MB, or as many as our shards; its own state."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    yield []
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # the server here has no TLS, which it knows no setting for
    keys = {
        "endpoint_url": os.environ["AWS_ENDPOINT_URL"],
        "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
        "region_name": "us-east-1",
    }
    data = StreamingDataset(asked.place, cache_dir=asked.disk, shuffle=True, seed=0, storage_options=keys)
    loader = StreamingDataLoader(data, batch_size=BATCH, num_workers=0, collate_fn=lambda samples: samples)
    state = Path(asked.state)
    if first:
        loader.load_state_dict(json.loads(state.read_text()))
    for number, batch in enumerate(loader):
        if not first and (number + 1) * BATCH == asked.stop:
            state.write_text(json.dumps(loader.state_dict()))
        yield [sample["image"] for sample in batch]


CLIENTS: dict[str, Callable[[argparse.Namespace, int], Batches]] = {
    each.__name__: each for each in (ours, one_by_one, webdataset, litdata)
}


def be_client(asked: argparse.Namespace) -> None:
    """Reads; prints a word when the first batch is there, and at the end samples, bytes, their checksums and CPU."""
    batches = CLIENTS[asked.client](asked, asked.first)
    next(batches)
    began, own, start = cpu_seconds(), 0.0, time.monotonic()
    samples, size, checksum, first = 0, 0, 0, (0.0, 0.0)
    for batch in batches:
        if not samples:
            first = time.monotonic() - start, cpu_seconds() - began
            print("first", flush=True)
            sys.stdin.readline()
        samples += len(batch)
        size += sum(map(len, batch))
        before = time.thread_time()
        checksum += sum(map(zlib.crc32, batch))
        own += time.thread_time() - before
        if samples + asked.first == asked.stop:
            break
    batches.close()
    said = {"samples": samples, "image_bytes": size, "checksum": checksum, "cpu": cpu_seconds() - began - own}
    print(json.dumps({**said, "first_seconds": first[0], "first_cpu": first[1]}), flush=True)


def run(
    client: str,
    faults: Any,
    server: Any,
    work: Path,
    *,
    place: str,
    disk: Path | str = "",
    first: int = 0,
    stop: int = -1,
) -> dict[str, Any]:
    """What a client says, and what the proxy counted, in all and before its first batch."""
    python = asked_python if client == "litdata" else sys.executable
    words = [python, __file__, "--client", client, "--place", place, "--disk", str(disk), "--first", str(first)]
    faults.clear()
    process = subprocess.Popen(
        [*words, "--stop", str(stop), "--state", str(work / "state.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **server.environment(faults.endpoint), "PYTHONPATH": str(ROOT.parent)},
    )
    assert process.stdin is not None and process.stdout is not None
    before: dict[str, int] = {}
    said: dict[str, Any] = {}
    for line in process.stdout:
        if line == "first\n":
            before = dict(faults.counts)
            process.stdin.write("\n")
            process.stdin.flush()
        elif line.startswith("{"):
            said = json.loads(line)
    if process.wait():
        raise SystemExit(f"{client} failed")
    counts = {name: faults.counts[name] for name in ("requests", "bytes")}
    return {**said, **counts, "before": {name: before.get(name, 0) for name in counts}}


asked_python = ""


def prepare(work: Path, copies: int) -> Path:
    """The photographs several times, packed. They are small: a comment of random bytes makes each as long as one of
    ImageNet may be, 100 KB on average, which nobody who decodes nothing can tell."""
    import numpy as np

    from eyespot.data_pipeline.shards.pack import pack

    images, drawn = work / "images", np.random.default_rng(0)
    with tarfile.open(PHOTOS) as tar:
        found = [(member.name, tar.extractfile(member).read()) for member in tar if member.isfile()]  # pyright: ignore
    found = [(name, data) for name, data in found if name.lower().endswith((".jpg", ".jpeg"))]
    for copy in range(copies):
        for number, (name, data) in enumerate(found):
            comments = [drawn.bytes(length) for length in drawn.integers(10_000, 54_000, 3).tolist()]
            longer = b"".join(b"\xff\xfe" + (len(each) + 2).to_bytes(2) + each for each in comments)
            path = images / Path(name).parent.name / f"{copy}-{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[:2] + longer + data[2:])
    pack(str(images), work / "shards", max_samples=500, workers=1)
    shutil.rmtree(images)
    folder = work / "shards"
    return folder if (folder / "manifest.json").exists() else folder / "train"


def make_chunks(asked: argparse.Namespace) -> None:
    """litData's own format, of the shards' images, in their order."""
    import litdata as ld

    samples = []
    for path in sorted(Path(asked.place).glob("*.tar")):
        with tarfile.open(path) as tar:
            samples += [tar.extractfile(each).read() for each in tar if each.name.endswith((".jpg", ".png"))]  # pyright: ignore
    writer = ld.streaming.Cache(asked.disk, chunk_bytes=int(asked.stop))
    for number, image in enumerate(samples):
        writer[number] = {"image": image}
    writer.done()
    writer.merge()


def row(name: str, found: dict[str, Any], resumed: dict[str, Any] | None, need: int) -> list[str]:
    """A line of the table."""
    samples = found["samples"]
    line = [name, f"{found['requests'] * 1000 / samples:.1f}", f"{found['bytes'] / need:.2f}x"]
    line.append(f"{found['cpu'] / need * 1e9:.2f}")
    if resumed is None:
        return [*line, "-", "-", "-"]
    before = resumed["before"]
    line.append(f"{before['requests']} requests, {before['bytes'] / need:.2f} of an epoch")
    return [*line, f"{resumed['first_seconds']:.2f} s", f"{resumed['bytes'] / need:.2f} of an epoch"]


def measure(asked: argparse.Namespace, work: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    import remote_store
    from results import write_results

    if why := remote_store.missing():
        raise SystemExit(why)
    folder = prepare(work, asked.copies)
    server = remote_store.StoreServer(work / "server")
    try:
        faults = remote_store.Faults(server)
        rows, details = compare(asked, work, folder, server, faults)
        faults.stop()
    finally:
        server.stop()
    write_results(
        "remote",
        title=f"An object store read once, {details['samples']:,} JPEGs of {details['mean_kb']:.0f} KB on average",
        header=(
            *("client", "requests per 1,000", "bytes / needed", "CPU-s per GB"),
            *("resumed at half an epoch: fetched before the first batch", "time to it", "fetched until the end"),
        ),
        rows=rows,
        details=details,
    )


def compare(
    asked: argparse.Namespace, work: Path, folder: Path, server: Any, faults: Any
) -> tuple[list[list[str]], dict[str, Any]]:
    place = server.put_folder(folder, "photos")
    tars = json.dumps([f"photos/{path.name}" for path in sorted(folder.glob("*.tar"))])
    found: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {}

    def whole(client: str, place: str, disks: list[Path | str]) -> dict[str, Any]:
        """An epoch, several times: CPU is the median, the rest the last one's."""
        ran = [run(client, faults, server, work, place=place, disk=disk) for disk in disks]
        return {
            **ran[-1],
            "cpu": statistics.median(each["cpu"] for each in ran),
            "cpu_of_each": [e["cpu"] for e in ran],
        }

    def resumed(client: str, place: str, disk: Path | str) -> dict[str, Any]:
        run(client, faults, server, work, place=place, disk=disk, stop=half)
        if disk:  # emptied, not another one: litData goes on only where it began
            shutil.rmtree(disk)
        return run(client, faults, server, work, place=place, disk=disk, first=half)

    def both(client: str, place: str, name: str, disk: bool = True) -> None:
        ran = whole(client, place, [work / f"{name} {number}" if disk else "" for number in range(TIMES)])
        assert ran["samples"] >= samples // BATCH * BATCH, f"{name} read {ran['samples']} of {samples}"
        found[name] = ran, resumed(client, place, work / f"{name} in half" if disk else "")

    def again(client: str, place: str, name: str, first: str) -> None:
        found[name] = whole(client, place, [work / f"{first} {number}" for number in range(TIMES)]), None

    local = whole("ours", str(folder), [""] * TIMES)
    samples, need = local["samples"], local["image_bytes"]
    half = samples // BATCH // 2 * BATCH
    found["ours, tars on the disk"] = local, None
    both("ours", place, "ours, empty cache")
    again("ours", place, "ours, second epoch", "ours, empty cache")
    both("ours", place, "ours, no cache disk", disk=False)
    both("one_by_one", place, "a request for each sample", disk=False)
    both("webdataset", tars, "WebDataset, pipe:curl", disk=False)
    if asked.litdata:
        chunks = work / "chunks"
        words = [asked.litdata, __file__, "--client", "chunks", "--place", str(folder), "--disk", str(chunks)]
        subprocess.run([*words, "--stop", str(max(path.stat().st_size for path in folder.glob("*.tar")))], check=True)
        address = server.put_folder(chunks, "chunks")
        both("litdata", address, "litData, chunks of a shard's size")
        again("litdata", address, "litData, second epoch", "litData, chunks of a shard's size")
    wrong = [name for name, (ran, _) in found.items() if ran["checksum"] != local["checksum"]]
    cached = found["ours, second epoch"][0]["cpu"] / local["cpu"]
    print(f"a cached pass takes {cached:.2f} times the CPU of tars on the disk; read other samples: {wrong or 'none'}")
    details = {"samples": samples, "mean_kb": need / samples / 1e3, "other_samples": wrong, "found": found}
    return [row(name, *each, need) for name, each in found.items()], details


def main() -> None:
    global asked_python
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=3, help="of the 2,000 photographs that come with eyespot")
    parser.add_argument("--litdata", default="", help="a Python that has litData")
    for name in ("--client", "--place", "--disk", "--state"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    for name in ("--first", "--stop"):
        parser.add_argument(name, type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.client == "chunks":
        make_chunks(asked)
    elif asked.client:
        be_client(asked)
    else:
        asked_python = asked.litdata
        with tempfile.TemporaryDirectory() as work:
            measure(asked, Path(work))


if __name__ == "__main__":
    main()
