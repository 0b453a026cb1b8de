# Built with: make image
#
# The base holds Python and no CUDA: torch, DALI and NCCL bring their CUDA libraries from PyPI, and the driver (libcuda,
# nvidia-smi) comes from the host through the NVIDIA container toolkit, enroot or Apptainer. NVIDIA's CUDA images would
# add a second copy of the same libraries, of another version than the one that constraints.txt pins.
#
# PyAV's wheel brings an FFmpeg of its own with GPL encoders (x264, x265), which eyespot never calls. In an image for
# yourself that is of no consequence. One that is published says so and follows the GPL, or holds PyAV built against
# an FFmpeg without them (pip install --no-binary av av; not tried, and Debian bookworm's FFmpeg 5.1 is too old for it).
ARG BASE=docker.io/library/python:3.11-slim-bookworm
# hadolint ignore=DL3006
FROM ${BASE}

# make installs; g++ is what torch.compile calls while it runs; the other three are InfiniBand's user libraries, which NCCL
# looks for: without them it takes TCP sockets and says nothing.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make libibverbs1 ibverbs-providers librdmacm1 \
    && rm -rf /var/lib/apt/lists/*

# Nobody but root may write to the packages later on, so they are compiled to bytecode now.
ENV UV_NO_CACHE=1 \
    UV_COMPILE_BYTECODE=1 \
    PIP_NO_CACHE_DIR=1

WORKDIR /opt/eyespot
# The same command as in the README; dependencies first, so that a change of code does not install them again.
COPY setup.py pyproject.toml constraints.txt Makefile __init__.py README.md ./
RUN mkdir data_pipeline pretrain eval cluster && make dev
COPY . .
RUN touch .venv/.ready \
    && .venv/bin/python -m compileall -q __init__.py data_pipeline pretrain eval cluster \
    && useradd --create-home --uid 1000 eyespot \
    && install -d -o eyespot -g eyespot /workspace

ENV PATH=/opt/eyespot/.venv/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 1000:1000
WORKDIR /workspace
ENTRYPOINT ["eyespot"]
CMD ["--help"]
