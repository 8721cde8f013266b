"""A uniform sample of more descriptors than fit in memory."""

import torch

__all__ = ["DescriptorSample"]


class DescriptorSample:
    """Draw ``size`` descriptors uniformly and without replacement from parts that arrive one after another.

    Every descriptor gets a random key, and those with the smallest keys are kept. However many descriptors arrive, the
    memory is that of the sample.

    Example:
        >>> sample = DescriptorSample(size=10)
        >>> for _ in range(3):
        ...     sample.update(torch.randn(100, 128))
        >>> sample.descriptors.shape
        torch.Size([10, 128])
    """

    def __init__(self, size: int, generator: torch.Generator | None = None) -> None:
        if size < 1:
            msg = f"n_samples must be at least 1, got {size}."
            raise ValueError(msg)
        self._size = size
        self._generator = generator
        self._keys = torch.empty(0)
        self._slots = torch.empty(0)

    @property
    def descriptors(self) -> torch.Tensor:
        """The sample, of shape ``(min(size, number seen), d)``, on the CPU."""
        return self._slots[: len(self._keys)]

    def update(self, descriptors: torch.Tensor) -> None:
        """Let descriptors of shape ``(n, d)``, on any device, take part in the draw."""
        if self._slots.ndim == 1:
            self._slots = torch.empty(self._size, descriptors.shape[1])
        n_before = len(self._keys)
        keys = torch.cat([self._keys, torch.rand(len(descriptors), generator=self._generator)])
        kept = keys.topk(min(self._size, len(keys)), largest=False).indices
        arriving = kept[kept >= n_before]
        is_free = torch.ones(len(kept), dtype=torch.bool)
        is_free[kept[kept < n_before]] = False
        free = is_free.nonzero().squeeze(1)
        self._keys = keys[: len(kept)].clone()
        self._keys[free] = keys[arriving]
        self._slots[free] = descriptors[(arriving - n_before).to(descriptors.device)].float().cpu()
