"""A teacher and its students, which describe each image as one patch (Section 4.1)."""

import torch
from torch import nn
from tqdm import trange

from anomalib_students.model.anomaly_map import normalised_score, predictive_uncertainty, regression_error
from anomalib_students.model.loss import regression_loss, squared_distances
from anomalib_students.model.normalisation import descriptor_divisor, score_divisor
from anomalib_students.networks.patch_network import PatchNetwork

__all__ = ["PatchStudents", "describe_patches", "train_students"]

IMAGES_AT_ONCE = 512
WEIGHT_DECAY = 1e-5


class PatchStudents(nn.Module):
    """A teacher, M students, and the statistics that their scores are normalised with.

    Args:
        teacher: Frozen patch network for patches of side p.
        n_students: Number M of students, which have its architecture.

    Example:
        >>> students = PatchStudents(PatchNetwork(patch_size=17, descriptor_dim=8), n_students=2)
        >>> students.normalise_descriptors(torch.rand(10, 3, 17, 17))
        >>> students.normalise_scores(torch.rand(10, 3, 17, 17))
        >>> students.score(torch.rand(5, 3, 17, 17)).shape
        torch.Size([5])
    """

    descriptor_mean: torch.Tensor
    descriptor_std: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, teacher: PatchNetwork, n_students: int) -> None:
        super().__init__()
        dim = teacher.descriptor_dim
        self.teacher = teacher.requires_grad_(requires_grad=False)
        self.students = nn.ModuleList(PatchNetwork(teacher.patch_size, dim) for _ in range(n_students))
        self.register_buffer("descriptor_mean", torch.zeros(dim, 1, 1))
        self.register_buffer("descriptor_std", torch.ones(dim, 1, 1))
        # Of regression error and predictive uncertainty.
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("std", torch.ones(2))

    def describe(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Describe images ``(B, 3, p, p)`` by all networks.

        Returns:
            Descriptors of the students ``(M, B, d, 1, 1)``, and the teacher's ``(B, d, 1, 1)``, normalised as in eq. 7.
        """
        with torch.no_grad():
            target = (self.teacher(images).float() - self.descriptor_mean) / self.descriptor_std
        return torch.stack([student(images) for student in self.students]), target

    def loss(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the loss of all students (eq. 7), a scalar."""
        return regression_loss(squared_distances(*self.describe(images)))

    @torch.no_grad()
    def normalise_descriptors(self, images: torch.Tensor) -> None:
        """Set the statistics of the teacher's descriptors of training images (eq. 7)."""
        std, mean = torch.std_mean(describe_patches(self.teacher, images).double(), dim=0, correction=0)
        self.descriptor_mean.copy_(mean.view(-1, 1, 1))
        self.descriptor_std.copy_(descriptor_divisor(mean, std).view(-1, 1, 1))

    def normalise_scores(self, images: torch.Tensor) -> None:
        """Set the statistics of error and uncertainty of images that the students have not learnt from (eq. 11)."""
        std, mean = torch.std_mean(self.errors(images).double(), dim=1, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(score_divisor(mean, std, len(self.descriptor_mean)))

    @torch.no_grad()
    def errors(self, images: torch.Tensor) -> torch.Tensor:
        """Compute regression error (eq. 9) and predictive uncertainty (eq. 10) of N images, of shape ``(2, N)``."""
        batches = [self.describe(batch) for batch in images.split(IMAGES_AT_ONCE)]
        pairs = [torch.stack([regression_error(*pair), predictive_uncertainty(pair[0])]) for pair in batches]
        return torch.cat(pairs, dim=1).flatten(1)

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Score N images by eq. 11, to shape ``(N,)``; a single student has no uncertainty."""
        error, uncertainty = normalised_score(self.errors(images), self.mean[:, None], self.std[:, None])
        return error + uncertainty if len(self.students) > 1 else error


@torch.no_grad()
def describe_patches(network: PatchNetwork, images: torch.Tensor) -> torch.Tensor:
    """Describe images ``(N, 3, p, p)``, each as one patch, by descriptors ``(N, d)``."""
    return torch.cat([network(batch).float().flatten(1) for batch in images.split(IMAGES_AT_ONCE)])


def train_students(
    teacher: PatchNetwork,
    images: torch.Tensor,
    n_students: int,
    epochs: int,
    batch_size: int,
    lr: float,
    decays: bool = False,
    bfloat16: bool = False,
    held_out: float = 0.1,
) -> PatchStudents:
    """Train students on images ``(N, 3, p, p)`` of the normal class, the first of which are held out for eq. 11.

    Args:
        teacher: Frozen teacher.
        images: Images in random order.
        n_students: Number M of students.
        epochs: Passes over the images.
        batch_size: Images in a step.
        lr: Learning rate of Adam.
        decays: Whether it decays to zero by half a cosine, which short trainings profit from.
        bfloat16: Whether to compute in bfloat16.
        held_out: Fraction of the images that is held out, at least one image.

    Raises:
        ValueError: If there are fewer than two images, or the training diverges.
    """
    if len(images) < 2:
        msg = f"Training needs at least two images, one of which is held out; got {len(images)}."
        raise ValueError(msg)
    model = PatchStudents(teacher, n_students).to(images.device)
    n_held_out = max(1, round(held_out * len(images)))
    training = images[n_held_out:]
    model.normalise_descriptors(training)
    steps = -(-len(training) // batch_size)
    optimizer = torch.optim.Adam(model.students.parameters(), lr, weight_decay=WEIGHT_DECAY)
    schedule = (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * steps, pct_start=0.05, cycle_momentum=False)
        if decays
        else torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1)
    )
    progress = trange(epochs * steps, desc="Training", leave=False)
    for _ in range(epochs):
        for indices in torch.randperm(len(training), device=images.device).split(batch_size):
            optimizer.zero_grad()
            with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
                loss = model.loss(training[indices])
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update()
    if not loss.isfinite():
        msg = f"The training diverged: use a smaller lr than {lr}."
        raise ValueError(msg)
    model.normalise_scores(images[:n_held_out])
    return model
