"""Replaces the libraries that DALI links for video, sound and astronomy by stubs that hold the names only.

    python benchmarks/gpu/stub_libraries.py FOLDER        FOLDER/nvidia/dali is changed in place; needs binutils, gcc

A stub's function returns its first argument. Nothing on the path of an image calls one.
"""

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

NOT_FOR_IMAGES = re.compile(r"avcodec|avformat|avfilter|avutil|swscale|cvcuda|nvcv|cfitsio|sndfile|FLAC|ogg|opus")


def symbols(library: Path, which: str) -> dict[str, tuple[str, str]]:
    """Type and version ("" = none) of the dynamic symbols; ``which``: undefined or defined."""
    command = ["nm", "-D", f"--{which}-only", "--with-symbol-versions", library]
    found: dict[str, tuple[str, str]] = {}
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        *_, kind, name = line.split()
        name, _, version = name.partition("@")
        found[name] = kind, version.lstrip("@")
    return found


def assembly(names: dict[str, str]) -> str:
    """Definitions of functions and, of any other kind, of 256 zeroes."""
    lines: list[str] = []
    for name, kind in names.items():
        if kind in "TWi":
            lines.append(f'.text\n.globl "{name}"\n.type "{name}",@function\n"{name}": mov %rdi,%rax\n ret\n')
        else:
            lines.append(f'.data\n.globl "{name}"\n.type "{name}",@object\n.size "{name}",256\n"{name}": .zero 256\n')
    return "".join(lines)


def replace(library: Path, needed: set[str], scratch: Path) -> None:
    """Leaves a library of the same soname with those of its names, at their versions, that others need."""
    dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    found = re.search(r"soname: \[(.*?)\]", dynamic)
    soname = found.group(1) if found else library.name
    used = {name: told for name, told in symbols(library, "defined").items() if name in needed}
    groups = defaultdict(list)
    for name, (_, version) in used.items():
        if version:
            groups[version].append(f'"{name}";')
    script, source = scratch / "versions.map", scratch / "stub.s"
    script.write_text("".join(f"{version} {{ global: {' '.join(names)} }};\n" for version, names in groups.items()))
    source.write_text(assembly({name: kind for name, (kind, _) in used.items()}))
    library.unlink()
    extra = [f"-Wl,--version-script={script}"] if groups else []
    command = ["gcc", "-shared", "-nostdlib", f"-Wl,-soname,{soname}", "-o", library, *extra, source]
    subprocess.run(command, check=True)


def main() -> None:
    folder = Path(sys.argv[1]) / "nvidia"
    linked = sorted((folder / "dali" / ".libs").iterdir())
    stubs = [path for path in linked if NOT_FOR_IMAGES.search(path.name)]
    kept = [*(folder / "dali").glob("*.so"), *(path for path in linked if path not in stubs)]
    kept += (folder / "nvimgcodec").rglob("*.so*")
    needed = {name for path in kept for name in symbols(path, "undefined")}
    with tempfile.TemporaryDirectory() as scratch:
        for path in stubs:
            replace(path, needed, Path(scratch))
    print(f"{len(stubs)} libraries replaced by stubs")


if __name__ == "__main__":
    main()
