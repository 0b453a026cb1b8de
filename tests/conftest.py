"""Shared fixtures. Shapes in signatures (jaxtyping) are checked at run time here, and only here."""

import os
import random
import signal
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parent))
import ranks
import remote_store
from browser import CHROMIUM, Browser
from fake_hub import TOKEN, FakeHub
from slurm_cluster import SlurmCluster, missing

ranks.PRELOADED.insert(0, __name__)  # for its import hook
install_import_hook("eyespot", "beartype.beartype")
# Several test processes share the cores: more threads than cores spend their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background jobs ignore Ctrl-C, and so would every command that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
MARKS = {"slurm": "cluster", "browser": "browser", "on_ranks": "ranks", "start_ranks": "ranks"}
"""What a test is marked with that asks for a fixture, itself or through another one."""
LONG = """
cluster/commands/test_eval cluster/commands/test_plan cluster/commands/test_pretrain cluster/launch/test_torchrun
cluster/planning/test_page cluster/planning/test_planner data_pipeline/augment/test_view_kernels
data_pipeline/loading/test_finish_views data_pipeline/loading/test_loader data_pipeline/shards/test_pack
eval/encoders/test_image_size eval/release/test_registry
eval/results/test_mlflow_children eval/test_evaluate eval/test_finetune eval/test_low_shot test_terminal_escapes
pretrain/losses/test_contrastive pretrain/tracking/test_tracker test_wheel
"""
"""Files that take over ten seconds, though no test of theirs is slow: most start processes of the command."""
SEED = int(os.environ.get("EYESPOT_TEST_SEED", "0"))
"""Another number draws everything anew: a test that fails then was lucky before."""


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests by their fixtures, and puts slow files first, those of the whole product before all.

    Whoever gets the last slow one lets the others wait.
    """
    long = set(LONG.split())
    for item in items:
        for fixture in MARKS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKS[fixture])
        if str(item.path.relative_to(ROOT / "tests").with_suffix("")) in long:
            item.add_marker("long")
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, len(item.path.relative_to(ROOT).parts)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public data sets that some tests run on."""
    folder = Path(os.environ.get("EYESPOT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set EYESPOT_TEST_DATA")
    return folder


def seed_all(name: str) -> None:
    """Seeds every global source of randomness by a name, so that no draw depends on what ran before."""
    seed = zlib.crc32(f"{SEED} {name}".encode())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """The same draws in every run of a test, whichever tests ran before it; ranks take their seed from here."""
    seed_all(request.node.nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """What several tests share draws the same too, whichever of them comes first."""
    if fixturedef.scope != "function":
        seed_all(f"{fixturedef.baseid}::{fixturedef.argname}")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The threads of BLAS too; to look for its libraries takes milliseconds, which are not spent on every test."""
    with threadpool_limits(1):
        yield


@pytest.fixture(autouse=True, scope="module")
def no_process_group_is_left() -> Iterator[None]:
    """An engine that needs one makes a group of one; the tests of the next file begin without."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's real digits as shards: train/ and test/."""
    from eyespot.data_pipeline.shards.pack import pack

    folder = tmp_path_factory.mktemp("shards") / "digits"
    pack("digits", folder, workers=1)
    return folder


@pytest.fixture(scope="session")
def on_ranks() -> Callable[..., list[Any]]:
    """``on_ranks(function, size, *arguments)``: what ``function(world, *arguments)`` returns on each real gloo rank."""
    return ranks.on_ranks


@pytest.fixture(scope="session")
def start_ranks() -> Callable[..., list[Any]]:
    """``start_ranks(function, size, *arguments)``: processes as of a launcher, to watch and to kill."""
    return ranks.start_ranks


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A real SLURM cluster of three nodes, for all tests of this process; a test that breaks it calls ``reset()``."""
    if why := missing():
        pytest.skip(why)
    with SlurmCluster(num_nodes=3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[remote_store.StoreServer]:
    """A real object store, for all tests of this process."""
    if why := remote_store.missing():
        pytest.skip(why)
    server = remote_store.StoreServer(tmp_path_factory.mktemp("object-store"))
    yield server
    server.stop()


@pytest.fixture
def faults(store_server: remote_store.StoreServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[remote_store.Faults]:
    """A proxy before the object store, to which this process and those it starts go; it does as it is told."""
    from eyespot.data_pipeline.stores import clients

    proxy = remote_store.Faults(store_server)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in store_server.environment(proxy.endpoint).items():
        monkeypatch.setenv(name, value)
    clients.forget_clients()
    yield proxy
    clients.forget_clients()
    proxy.stop()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real browser, for all tests of this process."""
    if CHROMIUM is None:
        pytest.skip("no browser to look at pages with; on Debian: apt-get install chromium")
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says why tests on SLURM or in a browser did not run: everything else is too easily taken for a pass."""
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", []) if report.longrepr]
    for what, sign in (("of the cluster", "no SLURM to test on"), ("in a browser", "no browser to look at pages with")):
        for reason in sorted({reason for reason in reasons if sign in reason}):
            count = sum(reason == other for other in reasons)
            terminalreporter.write_line(f"{count} tests {what} were skipped: {reason.removeprefix('Skipped: ')}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A model hub on loopback, to which the hub's own client and everything here goes, without long pauses."""
    import huggingface_hub.constants as settings

    from eyespot.eval.release import download

    hub = FakeHub()
    monkeypatch.setattr(settings, "ENDPOINT", hub.url)
    monkeypatch.setattr(settings, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(settings, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(settings, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(settings, "HF_HUB_DISABLE_XET", True)  # its servers are not to be had on loopback
    monkeypatch.setattr(settings, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.0)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield hub
    hub.stop()
