"""Shared fixtures. Shapes in signatures (jaxtyping) are checked at run time here, and only here."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("eyespot", "beartype.beartype")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public data sets that some tests run on."""
    folder = Path(os.environ.get("EYESPOT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set EYESPOT_TEST_DATA")
    return folder
