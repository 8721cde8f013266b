"""What can't be measured is not said to be zero."""

import math
from pathlib import Path

import pytest

from .small import small_data, small_engine, small_model


def test_metrics_without_anomalous_test_images_are_nan_and_not_zero(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    datamodule = small_data(tmp_path / "data")
    for image in (tmp_path / "data").rglob("*/square/*.png"):
        image.unlink()
    (metrics,) = small_engine(tmp_path / "results").test(small_model(), datamodule=datamodule)
    assert {"image_AUROC", "image_F1Score"} <= metrics.keys()
    for name, value in metrics.items():
        assert math.isnan(value)
        assert any(message.startswith(f"{name} can't be measured") for message in caplog.messages)
