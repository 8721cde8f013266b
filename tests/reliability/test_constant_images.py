"""Training images that hardly differ give scores of a sensible size, and a warning."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_students.model.normalisation import descriptor_divisor, score_divisor

from ..integration.conftest import SIDE, write_category
from .small import small_data, small_engine, small_model


@pytest.mark.parametrize("levels", [0, 1])
@pytest.mark.parametrize(
    ("jitter", "warning"),
    # In changing light the descriptors vary, and only the scores show that the images do not.
    [(0.0, "The training images are nearly constant"), (1.0, "the images are nearly constant")],
)
def test_scores_stay_small_enough_to_compare(
    levels: int, jitter: float, warning: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_category(tmp_path / "dots")
    random = np.random.default_rng(0)
    for path in (tmp_path / "dots" / "train" / "good").iterdir():
        pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
        pixels[random.integers(SIDE), random.integers(SIDE)] += levels
        Image.fromarray(pixels).save(path)
    model = small_model(n_students=2, light_jitter=jitter)
    small_engine(tmp_path, max_epochs=3, limit_val_batches=0).fit(model, datamodule=small_data(tmp_path))
    assert any(warning in message for message in caplog.messages)
    with torch.no_grad():
        scores = model.eval().model(torch.randn(2, 3, 32, 32)).pred_score
    assert (scores > 0).all()
    # Noise is as far from a blank sheet as can be: what is divided by rounding noise is 5e12.
    assert (scores < 1e10).all()


def test_images_of_parts_are_left_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = small_engine(tmp_path, limit_val_batches=0)
    # Patches of p = 83 are nearly the same all over these small images.
    model = small_model(n_students=2, architecture="paper", patch_sizes=(17,))
    engine.fit(model, datamodule=small_data(tmp_path))
    assert not any("nearly constant" in message for message in caplog.messages)


class TestDescriptorDivisor:
    def test_is_the_deviation_where_that_is_no_noise(self) -> None:
        std = torch.tensor([0.02, 1.0, 2.0], dtype=torch.float64)
        assert torch.equal(descriptor_divisor(torch.zeros(3), std), std.float())

    @pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
    def test_is_a_hundredth_of_the_typical_size_otherwise(self, size: float) -> None:
        mean, std = size * torch.tensor([3.0, -3.0, 3.0]), size * torch.tensor([0.0, 1e-6, 1e-5])
        torch.testing.assert_close(descriptor_divisor(mean, std), torch.full((3,), 0.03 * size))

    def test_is_positive_even_if_all_is_zero(self) -> None:
        assert (descriptor_divisor(torch.zeros(2), torch.zeros(2)) > 0).all()


class TestScoreDivisor:
    def test_is_the_deviation_where_that_is_no_noise(self) -> None:
        std = torch.tensor([0.5, 0.02])
        assert torch.equal(score_divisor(torch.tensor([20.0, 1.0]), std, 128), std)

    def test_is_a_hundredth_of_the_mean_otherwise(self) -> None:
        divisor = score_divisor(torch.tensor([20.0, 0.0]), torch.tensor([1e-6, 0.0]), 128)
        torch.testing.assert_close(divisor, torch.tensor([0.2, 128e-5]))
