# CUDA image: the driver comes from the host, CUDA's libraries from PyPI with torch and DALI. Built with: make image
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends git make gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/eyespot
# The same command as in the README; dependencies first, so that a change of code does not install them again.
COPY setup.py pyproject.toml constraints.txt Makefile __init__.py README.md ./
RUN mkdir data_pipeline pretrain eval cluster && make dev
COPY . .
RUN touch .venv/.ready

ENV PATH=/opt/eyespot/.venv/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
WORKDIR /workspace
ENTRYPOINT ["eyespot"]
CMD ["--help"]
