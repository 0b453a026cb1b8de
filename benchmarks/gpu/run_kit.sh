#!/bin/bash
# make gpu-check for a bare machine with one GPU, in the root of a tree with .kit/ in it (make_kit.sh):
#
#     bash benchmarks/gpu/run_kit.sh [PHASE ...]      at most 10 minutes; other arguments as gpu_check.py takes them
#     DRY=1 bash benchmarks/gpu/run_kit.sh            without a GPU: the same code, tiny, on the CPU
#
# KIT_SITE: where the packages are unpacked, by default .kit/site.
set -eo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd) python=${PYTHON:-python3}
site=${KIT_SITE:-$root/.kit/site}
if [ ! -e "$site/root/eyespot" ]; then
  $python -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$root"/.kit/*.whl
  tar -C "$site" -xJf "$root/.kit/dali.tar.xz"
  mkdir -p "$site/root" && ln -sfn "$root" "$site/root/eyespot"
fi
# The kit's nvJPEG before the one of a CUDA toolkit, which may be too old to decode a region.
export LD_LIBRARY_PATH=$site/nvidia/cu13/lib:$LD_LIBRARY_PATH PYTHONPATH=$site/root:$site:$PYTHONPATH PYTHONUNBUFFERED=1
cd "$root"
exec $python benchmarks/gpu_check.py --seconds 540 "$@"
