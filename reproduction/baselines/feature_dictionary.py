"""CNN Feature Dictionary (Napoletano et al., Sensors 2018), as Bergmann et al. evaluate it.

Napoletano, Piccoli and Schettini, "Anomaly Detection in Nanofibrous Materials by CNN-Based Self-Similarity", Sensors
2018: a pretrained network describes patches of good images, a few typical ones are kept, and an image is anomalous
where a patch is like none of them.
"""

import torch
from torch import nn
from torch.nn import functional
from torchvision.transforms.v2.functional import resize

from anomalib_students.model.anomaly_map import upsample
from anomalib_students.networks.dense import reflect_pad

from .shallow import KMeans

__all__ = ["FeatureDictionary"]

PATCHES_AT_ONCE = 64


class FeatureDictionary(nn.Module):
    """Score each pixel by the distance of the features of the patch around it to the nearest entry of a dictionary.

    The network sees only the patch. Its convolutions pad with zeros, so that the features of a patch are not among
    those of the whole image, and cannot be computed in one pass. Features are normalised to an l1 norm of one, and
    reduced to their principal components (Napoletano et al., Sections 4 and 6).

    Args:
        network: Network that maps patches ``(B, 3, s, s)`` to features ``(B, d)``.
        patch_size: Side p of the patches in pixels (Appendix C).
        output_stride: Distance in pixels between scored patches; the scores between them are interpolated.
        input_size: Side s to which patches are resized.
        patches_per_image: Patches that are drawn from each training image.
    """

    def __init__(
        self,
        network: nn.Module,
        patch_size: int = 65,
        output_stride: int = 4,
        input_size: int = 64,
        patches_per_image: int = 200,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(requires_grad=False)
        self.dictionary = KMeans()
        self.patch_size = patch_size
        self.output_stride = output_stride
        self.input_size = input_size
        self.patches_per_image = patches_per_image

    def describe(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features of random patches of normalised images ``(B, 3, H, W)``, of shape ``(n, d)``."""
        windows = self._windows(images, stride=1)
        n_images, n_rows, n_columns = windows.shape[:3]
        chosen = (torch.randint(side, (n_images, self.patches_per_image)) for side in (n_rows, n_columns))
        rows, columns = chosen
        return self._features(windows[torch.arange(n_images)[:, None], rows, columns].flatten(0, 1))

    def fit(self, features: torch.Tensor) -> None:
        """Find the principal components of features ``(n, d)``, and keep those nearest to the centres of K-Means."""
        self.dictionary.fit(features)
        # An entry is a patch of a good image, and not a mean of several.
        components = (features - self.dictionary.mean) @ self.dictionary.directions
        self.dictionary.centres = components[torch.cdist(self.dictionary.centres, components).argmin(dim=1)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the anomaly maps ``(B, 1, H, W)`` of normalised images."""
        windows = self._windows(images, self.output_stride)
        scores = self.dictionary(self._features(windows.flatten(0, 2))).view(windows.shape[:3])
        return upsample(scores.unsqueeze(1), self.output_stride, images.shape[-2:])

    def _windows(self, images: torch.Tensor, stride: int) -> torch.Tensor:
        """View the patches around every s-th pixel, of shape ``(B, h, w, 3, p, p)``."""
        before, after = (self.patch_size - 1) // 2, self.patch_size // 2
        padded = reflect_pad(images, before, after, before, after)
        return padded.unfold(2, self.patch_size, stride).unfold(3, self.patch_size, stride).movedim(1, 3)

    @torch.no_grad()
    def _features(self, patches: torch.Tensor) -> torch.Tensor:
        side = [self.input_size, self.input_size]
        chunks = [self.network(resize(chunk, side, antialias=True)).float() for chunk in patches.split(PATCHES_AT_ONCE)]
        return functional.normalize(torch.cat(chunks), p=1, dim=1)
