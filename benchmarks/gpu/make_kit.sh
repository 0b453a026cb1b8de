#!/bin/bash
# Makes .kit/ in the root of a checkout: what a bare machine with one GPU (torch 2.11 or later with CUDA 13, Python 3.12,
# no network) lacks to run eyespot; and .kit.tar, that with what of the tree is needed: at most 64 MiB. There:
#
#     mkdir eyespot && tar -C eyespot -xf .kit.tar && bash eyespot/benchmarks/gpu/run_kit.sh
#
#     bash benchmarks/gpu/make_kit.sh           3 minutes on 2 cores; needs pip, unzip, xz, binutils, gcc; 270 MB of wheels
#     KIT_WHEELS=FOLDER bash ...                keeps the downloaded wheels there, and takes what is already there
#     KIT_GPU=100 KIT_PYTHON=313 bash ...       for another GPU (90 = H100, H200) or Python
set -eo pipefail
here=$(cd "$(dirname "$0")" && pwd) root=$(cd "$(dirname "$0")/../.." && pwd)
gpu=${KIT_GPU:-90} version=${KIT_PYTHON:-312} python=${PYTHON:-python3}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
wheels=${KIT_WHEELS:-$work/wheels}
rm -rf "$root/.kit"; mkdir -p "$root/.kit" "$wheels"

options=(--no-deps --only-binary=:all: --python-version "${version:0:1}.${version:1}" --implementation cp)
for glibc in 2_28 2_27 2_17; do options+=(--platform "manylinux_${glibc}_x86_64"); done
get() {  # FOLDER NAME...: the wheels of the versions that constraints.txt names
  local folder=$1 names=(); shift
  for name in "$@"; do names+=("$(grep -E "^$name==" "$root/constraints.txt" | cut -d' ' -f1)"); done
  $python -m pip download -q "${options[@]}" --platform manylinux2014_x86_64 --find-links "$wheels" -d "$folder" "${names[@]}"
}

# 1. Small wheels, carried as they are. MLflow and DeepSpeed, which are large, only runs that ask for them import.
get "$root/.kit" annotated-types astunparse beartype braceexpand docstring-parser gast msgspec optree submitit timm \
  typeguard tyro webdataset

# 2. DALI and what it loads: unpacked, cut down, packed again.
get "$wheels" nvidia-dali-cuda130 nvidia-nvimgcodec-cu13 nvidia-libnvcomp-cu13 nvidia-nvjpeg
for wheel in "$wheels"/nvidia_{dali,nvimgcodec,libnvcomp,nvjpeg-}*.whl; do unzip -qo "$wheel" 'nvidia/*' -d "$work"; done
cd "$work"
rm -rf nvidia/dali/include nvidia/libnvcomp/{include,bin} nvidia/nvimgcodec/{include,tools} nvidia/cu13/include
find nvidia -name '*.pyi' -delete
find nvidia -name '*.cpython-*.so' ! -name "*.cpython-$version-x86_64-linux-gnu.so" -delete
find nvidia/dali/plugin -name '*.so*' -delete  # TensorFlow's
find nvidia/nvimgcodec/extensions -type f ! -name '*jpeg_turbo_ext*' ! -name 'libnvjpeg_ext*' ! -name 'libopencv_ext*' -delete
find nvidia/libnvcomp/lib64 -type f ! -name 'libnvcomp.so.5' ! -name 'libnvcomp_cpu.so.5' -delete
find nvidia -type f -name '*.so*' -print0 | xargs -0 "$python" "$here/trim_libraries.py" "$gpu"
$python "$here/stub_libraries.py" "$work"
tar -cf - nvidia | xz -5 -T1 > "$root/.kit/dali.tar.xz"
cd "$root"
echo ".kit has $(du -sb .kit | cut -f1) bytes"
$python "$here/kit_tree.py" .kit.tar
