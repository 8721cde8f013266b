"""Write solar cells in MVTec AD's layout, with labels of images and no masks: a category for ``teachers.py``.

The monocrystalline cells of the package elpv-dataset (Buerhop-Lutz et al., 2018): the certainly good ones to train and
to test on, and the certainly defective ones to test on.

    pip install elpv-dataset
    python benchmarks/cells.py --output datasets/cells
"""

from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from PIL import Image

N_TRAIN, N_TEST = 200, 120


def cells(output: Path = Path("datasets/cells")) -> None:
    """Write 200 good cells to train on, and 120 good and 120 defective ones to test on.

    Args:
        output: Folder of the category.
    """
    from elpv_dataset.utils import load_dataset

    images, probabilities, types = load_dataset()
    rng = np.random.default_rng(0)
    good, defective = (rng.permutation(np.flatnonzero((types == "mono") & (probabilities == p))) for p in (0, 1))
    chosen = {
        "train/good": good[:N_TRAIN],
        "test/good": good[N_TRAIN : N_TRAIN + N_TEST],
        "test/defective": defective[:N_TEST],
    }
    for folder, indices in chosen.items():
        (output / folder).mkdir(parents=True, exist_ok=True)
        for index in indices:
            Image.fromarray(images[index]).save(output / folder / f"{index:04d}.png")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_function_arguments(cells, as_group=False)
    cells(**vars(parser.parse_args()))
