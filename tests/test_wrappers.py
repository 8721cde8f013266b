"""What anomalib's functions do that this package wraps: the option ``seed_everything`` of the command line."""

from pathlib import Path

import pytest
import torch
from anomalib.cli import AnomalibCLI

from .reliability.small import small_config, weights_of


def run(config: Path, folder: Path, seed: str, run: bool = True) -> AnomalibCLI:
    arguments = ["fit", "-c", str(config), "--seed_everything", seed, "--default_root_dir", str(folder)]
    return AnomalibCLI(arguments, run=run)


def test_the_seed_decides_the_trained_weights_on_the_command_line(tmp_path: Path) -> None:
    config = small_config(tmp_path / "data", tmp_path / "config.yaml")
    first, second = (weights_of(run(config, tmp_path, "0").engine.best_model_path) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("seeds", [("0", "1"), ("true", "true")])
def test_other_seeds_leave_other_weights(seeds: tuple[str, str], tmp_path: Path) -> None:
    config = small_config(tmp_path / "data", tmp_path / "config.yaml")
    first, second = (run(config, tmp_path, seed, run=False).model.model.scales[0].students for seed in seeds)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))
