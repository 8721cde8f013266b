"""Normal and anomalous pixels with their descriptors and scores, as Figure 4 shows them.

If each image is one patch (Section 4.1), a pixel stands for the image.
"""

from typing import NamedTuple

import numpy as np
import torch

from reproduction.baselines.descriptor_sample import DescriptorSample

__all__ = ["PixelSampler", "Pixels"]


class Pixels(NamedTuple):
    """Output of an ensemble for n pixels: the teacher's descriptors and the students' means (eq. 8), ``(n, d)``.

    Uncertainty (eq. 10), score (eq. 11) and ground truth have the shape ``(n,)``.
    """

    teacher: np.ndarray
    students: np.ndarray
    uncertainty: np.ndarray
    score: np.ndarray
    is_anomalous: np.ndarray


class PixelSampler:
    """Draw ``n_pixels`` normal and as many anomalous pixels from all that pass by, and keep the scores of all."""

    def __init__(self, n_pixels: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._samples = {label: DescriptorSample(n_pixels, generator) for label in (False, True)}
        self._scores: dict[bool, list[np.ndarray]] = {False: [], True: []}

    def add(self, pixels: Pixels) -> None:
        """Let pixels of both classes take part in the draw."""
        values = torch.from_numpy(np.column_stack(pixels[:-1]))
        for label, sample in self._samples.items():
            own = pixels.is_anomalous == label
            self._scores[label].append(pixels.score[own])
            sample.update(values[torch.from_numpy(own)])

    @property
    def drawn(self) -> Pixels:
        """The pixels drawn: of each class as many as asked for, or all if there are fewer; the normal ones first."""
        classes = [sample.descriptors.numpy() for sample in self._samples.values()]
        values = np.concatenate(classes)
        dim = values.shape[1] // 2 - 1
        is_anomalous = np.repeat(list(self._samples), [len(drawn) for drawn in classes])
        return Pixels(values[:, :dim], values[:, dim:-2], values[:, -2], values[:, -1], is_anomalous)

    def scores(self, is_anomalous: bool) -> np.ndarray:
        """Scores of all pixels of a class, of shape ``(n,)``, in the order in which they passed by."""
        return np.concatenate(self._scores[is_anomalous])
