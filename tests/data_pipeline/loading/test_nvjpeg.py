"""Which nvJPEG a process gets, and how much memory it reserves. None of it needs a GPU."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading import nvjpeg
from eyespot.data_pipeline.loading.nvjpeg import NvjpegConfig, check_gpu, largest_reserved
from eyespot.data_pipeline.shards.manifest import ImageStats

PHOTOGRAPHS = ImageStats(mean=(0.5,) * 3, std=(0.2,) * 3, height=(20, 375, 6530), width=(30, 500, 9331))
DIGITS = replace(PHOTOGRAPHS, height=(8, 8, 8), width=(8, 8, 8))


@pytest.fixture(scope="module")
def older(tmp_path_factory) -> Path:
    """A folder with a library of nvJPEG's name that says it is 13.0, as ``module load cuda`` brings one."""
    folder = tmp_path_factory.mktemp("toolkit")
    source = folder / "nvjpeg.c"
    source.write_text("int nvjpegGetProperty(int which, int *value) { *value = which ? 0 : 13; return 0; }")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / nvjpeg.LIBRARY, source], check=True)
    return folder


def told(older: Path, before: str = "") -> list[str]:
    """The version in a process with that library in its path, whether it decodes regions, and which files it has."""
    code = f"""
from eyespot.data_pipeline.loading import nvjpeg
{before}
print(nvjpeg.version(), nvjpeg.decodes_regions())
print(*{{line.split()[-1] for line in open("/proc/self/maps") if "libnvjpeg.so" in line}})
"""
    environment = {"LD_LIBRARY_PATH": str(older), "PYTHONPATH": ":".join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return run.stdout.splitlines()


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU here")
def test_where_nobody_can_ask_a_gpu_its_engines_are_not_known():
    assert nvjpeg.jpeg_engines() is None


def test_the_librarys_own_is_loaded_though_the_toolkits_comes_first(older):
    said, files = told(older)
    assert said.endswith("True")
    assert str(older) not in files
    assert Path(files).parts[-4:-1] == ("nvidia", "cu13", "lib")


def test_an_older_one_decodes_whole_images(older):
    said, files = told(older, "import sys; sys.path[:] = []")
    assert said == "(13, 0, 0) False"
    assert files == str(older / nvjpeg.LIBRARY)


@pytest.mark.parametrize(
    ("stats", "batch_size", "most_bytes", "reserved"),
    [
        (DIGITS, 256, 10**6, (8, 8)),
        (PHOTOGRAPHS, 1, 10**9, (6530, 9331)),
        (PHOTOGRAPHS, 256, 0, (0, 0)),
    ],
)
def test_the_largest_image_is_reserved_for_where_a_batch_of_it_fits(stats, batch_size, most_bytes, reserved):
    assert largest_reserved(stats, batch_size, most_bytes) == reserved


def test_else_as_much_as_may_be_taken():
    height, width = largest_reserved(PHOTOGRAPHS, 256, 512 * 10**6)
    assert height / width == pytest.approx(6530 / 9331, rel=0.01)
    assert 0.99 < 256 * 3 * height * width / (512 * 10**6) <= 1


def test_a_load_beyond_all_is_refused():
    with pytest.raises(
        UserError,
        match=r"^data.nvjpeg.hw_decoder_load 1.5: must lie between 0 and 1, .*; leave it out for 1, all of them$",
    ):
        NvjpegConfig(hw_decoder_load=1.5)


def test_a_gpu_that_answers_is_not_dead():
    waited: list[bool] = []
    check_gpu(lambda: waited.append(True), RuntimeError("nvJPEG error (6): unsupported"))
    assert waited
