"""Resizing that can be exported against torch's own antialiased interpolation."""

import pytest
import torch
from torch.nn import functional

from anomalib_students.networks.resize import antialiased_resize


@pytest.mark.parametrize("size", [(256, 256), (320, 321), (900, 100), (31, 7), (1, 1), (64, 500), (37, 128)])
@pytest.mark.parametrize("new_size", [(64, 64), (37, 128)])
def test_resizes_as_torch_does(size: tuple[int, int], new_size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(images, new_size, mode="bilinear", antialias=True)
    torch.testing.assert_close(antialiased_resize(images, *new_size), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("side", [288, 500, 801])
def test_pixels_stay_in_place_in_bfloat16(side):
    """In which OpenVINO computes by itself on many processors, and which has no odd numbers above 256."""
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(images, (288, 288), mode="bilinear", antialias=True)
    resized = antialiased_resize(images.bfloat16(), 288, 288).float()
    # A few times the relative step of bfloat16.
    torch.testing.assert_close(resized, expected, atol=4 * 2**-8, rtol=0)
