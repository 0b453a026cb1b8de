"""What of the tree the kit for a bare machine needs: the package, the check and its tests; no photographs, no pages.

python benchmarks/gpu/kit_tree.py            the files, each with its bytes, and their sum in an archive
python benchmarks/gpu/kit_tree.py FILE       them and .kit/, if it is there, in an archive; refused above 64 MiB
"""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_BYTES = 64 << 20
"""Of all that is carried."""
KIT_BYTES = 56_000_000
"""Of .kit/ as make_kit.sh made it last, rounded up: what the tree must leave room for."""
BLOCK = 512
"""Bytes to which an archive fills up each file, beside as many for its name."""
_CARRIED = re.compile(
    r"(data_pipeline|pretrain|eval|cluster)/.*|benchmarks/(gpu/.*|gpu_check\.py|ranks\.py|results\.py)"
    r"|tests/(test_gpu|conftest|browser|fake_hub|remote_store|slurm_cluster)\.py"
    r"|__init__\.py|pyproject\.toml|setup\.py|LICENSE"
)
_LEFT_OUT = re.compile(r".*/caltech10\.tar\.gz|cluster/web/static/.*")
"""The check makes its photographs of those that scikit-learn brings, and shows nothing in a browser."""


def carried(root: Path = ROOT) -> list[str]:
    """The files, of those that git tracks."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.split("\0") if name]
    return [name for name in names if _CARRIED.fullmatch(name) and not _LEFT_OUT.fullmatch(name)]


def archived_bytes(path: Path) -> int:
    """What a file takes in an archive."""
    return BLOCK + -(-path.stat().st_size // BLOCK) * BLOCK


def write(archive: Path) -> None:
    """Writes the files, and .kit/ as it was made, uncompressed: the kit is already."""
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        kit = [str(path.relative_to(ROOT)) for path in sorted((ROOT / ".kit").glob("*")) if path.is_file()]
        for name in [*carried(), *kit]:
            tar.add(ROOT / name, name, recursive=False)
    size = archive.stat().st_size
    if size > MOST_BYTES:
        archive.unlink()
        sys.exit(f"{archive}: {size} bytes, more than {MOST_BYTES}; leave more out (benchmarks/gpu/kit_tree.py)")
    print(f"{archive}: {size} bytes of {MOST_BYTES}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write(Path(sys.argv[1]))
    else:
        sizes = {name: archived_bytes(ROOT / name) for name in carried()}
        for name, size in sizes.items():
            print(f"{size:9d} {name}")
        print(f"{sum(sizes.values()):9d} in {len(sizes)} files")
