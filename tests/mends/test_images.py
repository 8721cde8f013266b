"""Image files that anomalib opens; tests/reliability/test_image_files.py has every kind of them."""

import subprocess
import sys

import numpy as np
import pytest
from anomalib.data.utils import read_mask
from PIL import Image

from anomalib_students.mends import apply_mends

from ..reliability.pictures import write_picture

apply_mends()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_masks_of_sixteen_bits_keep_what_they_mark(suffix, tmp_path):
    values = np.array([[0, 1, 256], [257, 40_000, 65_535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"mask.{suffix}")
    assert read_mask(tmp_path / f"mask.{suffix}", as_tensor=True).tolist() == [[0, 1, 1], [1, 1, 1]]


def test_masks_that_are_damaged_are_named(tmp_path):
    path = write_picture("truncated.png", tmp_path / "mask")
    with pytest.raises(ValueError, match=r"Cannot read .*mask\.png"):
        read_mask(path)


@pytest.mark.slow
def test_a_program_with_anomalib_alone_reads_by_ours(tmp_path):
    """The plugin brings it into a program of inference that imports nothing of ours."""
    path = write_picture("grey16.png", tmp_path / "picture")
    program = "import sys; from anomalib.data.utils import read_image; "
    program += "print(read_image(sys.argv[1]).mean())"
    ended = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert float(ended.stdout.splitlines()[-1]) == pytest.approx(0.5, abs=0.01)
