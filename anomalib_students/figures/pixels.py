"""Pixels, normal and anomalous: their descriptors and scores, as Figure 4 shows them.

Where each image is one patch (Section 4.1), a pixel stands for the image.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["PixelSampler", "Pixels"]


class Pixels(NamedTuple):
    """What an ensemble says of n pixels.

    Attributes:
        teacher: Normalised descriptors of the teacher, of shape ``(n, d)``.
        students: Mean descriptors of the students (eq. 8), of shape ``(n, d)``.
        uncertainty: Predictive uncertainty (eq. 10), of shape ``(n,)``.
        score: Scores (eq. 11), of shape ``(n,)``.
        is_anomalous: Ground truth, of shape ``(n,)``.
    """

    teacher: np.ndarray
    students: np.ndarray
    uncertainty: np.ndarray
    score: np.ndarray
    is_anomalous: np.ndarray

    def take(self, indices: np.ndarray) -> "Pixels":
        """Choose some of the pixels."""
        return Pixels(*(values[indices] for values in self))

    def join(self, others: "Pixels") -> "Pixels":
        """Add other pixels of the same ensemble."""
        return Pixels(*(np.concatenate(values) for values in zip(self, others, strict=True)))


class PixelSampler:
    """Draw normal and anomalous pixels at random from all that pass by, and keep the scores of all.

    Each pixel of a class is as likely to be drawn as any other: it gets a random number, and those with the smallest
    stay. So no more descriptors are kept than are drawn.

    Args:
        n_pixels: Pixels to draw of each class.
        seed: Seed of the random numbers.
    """

    def __init__(self, n_pixels: int, seed: int = 0) -> None:
        self.n_pixels = n_pixels
        self._random = np.random.default_rng(seed)
        self._drawn: dict[bool, tuple[np.ndarray, Pixels]] = {}
        self._scores: dict[bool, list[np.ndarray]] = {False: [], True: []}

    def add(self, pixels: Pixels) -> None:
        """Let pixels pass by.

        Args:
            pixels: Pixels of both classes.
        """
        for label in (False, True):
            own = pixels.take(np.flatnonzero(pixels.is_anomalous == label))
            self._scores[label].append(own.score)
            numbers = self._random.random(len(own.score))
            if label in self._drawn:
                drawn_numbers, drawn = self._drawn[label]
                numbers, own = np.concatenate([drawn_numbers, numbers]), drawn.join(own)
            smallest = np.argsort(numbers)[: self.n_pixels]
            self._drawn[label] = numbers[smallest], own.take(smallest)

    @property
    def drawn(self) -> Pixels:
        """The pixels drawn: of each class as many as asked for, or all if there are fewer; the normal ones first."""
        return self._drawn[False][1].join(self._drawn[True][1])

    def scores(self, is_anomalous: bool) -> np.ndarray:
        """Return the scores of all pixels of a class.

        Args:
            is_anomalous: Which class.

        Returns:
            Scores of shape ``(n,)``, in the order in which they passed by.
        """
        return np.concatenate(self._scores[is_anomalous])
