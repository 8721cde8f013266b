r"""Measure a lean network for parts and surfaces: EfficientNet-Lite0's first stages as teacher, and small students.

An experiment, not a model of the package. One pass describes the patches around every eighth pixel by 24 + 40 + 80
values, of p = 19, 67 and 83: the outputs of the source's layers at strides 4, 8 and 16, evaluated exactly, without
padding. Students share the first layers with the teacher. There is a pyramid of two scales, full and half side, each
with a student of its own. Descriptors are whitened, level by level; eq. 11 normalises the errors of each scale by
held-out images, and their sum is the map. The score of an image is the mean of the top 5 % of its map.

    python benchmarks/lean.py --root datasets/MVTecAD --categories "[pill,screw]" \
        --weights path/to/efficientnet_lite0.safetensors
"""

import math
import time
from pathlib import Path

import timm
import torch
from jsonargparse import ArgumentParser
from measuring import count_operations
from rich.console import Console
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from teachers import aupro, mask_of, read
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur

from anomalib_students.model.augment import jitter_light, paint_defects
from anomalib_students.networks.dense import pad_border
from anomalib_students.trainings import has_bfloat16

PATCH_SIZE = 83
STRIDE = 8
LEVELS = (24, 40, 80)
"""Values of the descriptor for p = 19, 67 and 83."""
WIDTHS = (48, 64, 96, 128, 128)
SLOPE = 5e-3
BATCH = 4
"""Crops in a step."""
CROP = 20
"""Patches in each direction that a crop has."""
HARD_FRACTION = 0.1
STEPS_FOR_STATISTICS = 40
WHITENING_FLOOR = 1e-2
"""Least variance of a direction, in units of the mean of all."""
TOP = 0.05
"""Fraction of the pixels whose mean is the score of an image."""


class Block(nn.Module):
    """An inverted residual block without padding, its batch norm folded; the last one of the teacher steps by 1."""

    def __init__(self, block: nn.Module, stride: int | None = None) -> None:
        super().__init__()
        has_expansion = hasattr(block, "conv_pwl")
        self.expand = fold(block.conv_pw, block.bn1) if has_expansion else nn.Identity()
        depthwise, norm = (block.conv_dw, block.bn2) if has_expansion else (block.conv_dw, block.bn1)
        self.depthwise = fold(depthwise, norm, stride)
        self.project = fold(block.conv_pwl, block.bn3) if has_expansion else fold(block.conv_pw, block.bn2)
        self.has_skip = block.has_skip
        self.has_expansion = has_expansion

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the block; a skip connection loses the border that the convolution loses."""
        expanded = functional.relu6(self.expand(features)) if self.has_expansion else features
        result = self.project(functional.relu6(self.depthwise(expanded)))
        if not self.has_skip:
            return result
        border = self.depthwise.kernel_size[0] // 2
        return result + features[..., border:-border, border:-border]


def fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d, stride: int | None = None) -> nn.Conv2d:
    """Make a convolution without padding that does what convolution and batch norm do."""
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    folded = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        stride or convolution.stride,
        groups=convolution.groups,
    )
    folded.weight.data = convolution.weight.detach() * factor.detach().view(-1, 1, 1, 1)
    folded.bias.data = (norm.bias - norm.running_mean * factor).detach()
    return folded


def crop_levels(of_19: torch.Tensor, of_67: torch.Tensor, of_83: torch.Tensor) -> torch.Tensor:
    """Put together what describes the patches around the same pixels: p = 19 at stride 4, the others at stride 8."""
    rows, columns = of_83.shape[-2:]
    return torch.cat(
        [of_19[..., 8 : 8 + 2 * rows : 2, 8 : 8 + 2 * columns : 2], of_67[..., 1 : 1 + rows, 1 : 1 + columns], of_83],
        dim=1,
    )


class Teacher(nn.Module):
    """The first layers of EfficientNet-Lite0 as an exact patch network of p = 83 and stride 8."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        network.eval()
        self.stem = fold(network.conv_stem, network.bn1)
        self.first = nn.Sequential(*(Block(block) for block in network.blocks[0]))
        self.stride_4 = nn.Sequential(*(Block(block) for block in network.blocks[1]))
        self.stride_8 = nn.Sequential(*(Block(block) for block in network.blocks[2]))
        # Evaluated at every eighth pixel instead of every sixteenth.
        self.context = Block(network.blocks[3][0], stride=1)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        with torch.no_grad():
            # The network's own normalisation is by 0.5 and 0.5.
            self.stem.bias += (self.stem.weight * (mean - 0.5) / 0.5).sum(dim=(1, 2, 3))
            self.stem.weight *= std / 0.5
        self.requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)

    def shared(self, images: torch.Tensor) -> torch.Tensor:
        """Apply the layers that the students share, of 16 channels at stride 2."""
        return self.first(functional.relu6(self.stem(images)))

    def forward(self, shared: torch.Tensor) -> torch.Tensor:
        """Describe patches ``(B, 144, h, w)`` by what the shared layers return."""
        of_19 = self.stride_4(shared)
        of_67 = self.stride_8(of_19)
        return crop_levels(of_19, of_67, self.context(of_67))


class Student(nn.Module):
    """A network of plain convolutions that describes the same patches from the shared layers on."""

    def __init__(self) -> None:
        super().__init__()
        of_19, of_67, of_83 = LEVELS
        a, b, c, d, e = WIDTHS
        self.first = nn.Sequential(*layer(16, a, 3, 2), *layer(a, b, 3))
        self.rest = nn.Sequential(*layer(b, c, 3, 2), *layer(c, d, 3), *layer(d, e, 3))
        self.heads = nn.ModuleList([nn.Conv2d(b, of_19, 1), nn.Conv2d(e, of_67, 2), nn.Conv2d(e, of_83, 4)])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                nn.init.zeros_(module.bias)
        for head in self.heads:
            head.weight.data.mul_(0.5)
        self.to(memory_format=torch.channels_last)

    def forward(self, shared: torch.Tensor) -> torch.Tensor:
        """Describe patches ``(B, 144, h, w)`` by what the shared layers return."""
        first = self.first(shared)
        rest = self.rest(first)
        return crop_levels(self.heads[0](first), self.heads[1](rest), self.heads[2](rest))


def layer(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """Make a convolution and its activation."""
    return nn.Conv2d(inputs, outputs, kernel, stride), nn.LeakyReLU(SLOPE, inplace=True)


class Whitening(nn.Module):
    """Normalise descriptors so that the directions of each level vary alike."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.mean = vectors.mean(dim=0).view(-1, 1, 1)
        matrices = []
        for level in vectors.double().split(LEVELS, dim=1):
            values, directions = torch.linalg.eigh(level.T.cov())
            matrices.append((directions * values.clamp(min=WHITENING_FLOOR * values.mean()).rsqrt()).T)
        self.weight = torch.block_diag(*matrices).float()[..., None, None]

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Normalise descriptors ``(B, 144, h, w)``."""
        return functional.conv2d(descriptors.float() - self.mean, self.weight)


class Scale(nn.Module):
    """Teacher and student at one scale, trained on images ``(N, 3, H, W)`` that are padded by reflection."""

    def __init__(self, teacher: Teacher, images: torch.Tensor, steps: int, generator: torch.Generator) -> None:
        super().__init__()
        self.teacher, self.student = teacher, Student()
        images = pad(images)
        with torch.no_grad(), reduced_precision():
            chosen = torch.randint(len(images), (STEPS_FOR_STATISTICS,), generator=generator)
            batches = [
                teacher(teacher.shared(jitter_light(images[index : index + 1], 1.0, generator))) for index in chosen
            ]
        self.whitening = Whitening(torch.cat([d.float().movedim(1, -1).flatten(0, 2) for d in batches]))
        optimizer = torch.optim.AdamW(self.student.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-5)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1, (step + 1) / 50) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2
        )
        side = PATCH_SIZE + STRIDE * (CROP - 1)
        for _ in range(steps):
            crops = jitter_light(draw(images, side, generator), 1.0, generator)
            crops = crops.contiguous(memory_format=torch.channels_last)
            painted = paint_defects(crops, 0.5, generator).contiguous(memory_format=torch.channels_last)
            errors = self.errors(crops, painted).flatten()
            # Painted images have pixels that no student can know.
            fraction = HARD_FRACTION * (1 if torch.equal(painted, crops) else 2)
            loss = errors.topk(round(fraction * len(errors))).values.mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
            optimizer.step()
            schedule.step()

    def errors(self, images: torch.Tensor, painted: torch.Tensor | None = None) -> torch.Tensor:
        """Regression errors ``(B, h, w)`` of padded images (eq. 9), divided by the number of values."""
        with reduced_precision():
            with torch.no_grad():
                shared = self.teacher.shared(images)
                target = self.whitening(self.teacher(shared))
                seen = shared if painted is None else self.teacher.shared(painted)
            return (self.student(seen).float() - target).square().mean(dim=1)


def reduced_precision() -> torch.autocast:
    """Compute in bfloat16 if the processor does."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16(torch.device("cpu")))


def pad(images: torch.Tensor) -> torch.Tensor:
    """Pad images by the border that patches reach over."""
    return pad_border(images, PATCH_SIZE).contiguous(memory_format=torch.channels_last)


def draw(images: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """Crop random places of random images."""
    crops = []
    for index in torch.randint(len(images), (BATCH,), generator=generator):
        top, left = (int(torch.randint(max(1, s - side + 1), (), generator=generator)) for s in images.shape[-2:])
        crops.append(images[index, :, top : top + side, left : left + side])
    return torch.stack(crops)


@torch.no_grad()
def maps(scale: Scale, images: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
    """Normalised errors of images at full resolution (eq. 11)."""
    of_held_out, of_images = (
        torch.cat([scale.errors(pad(batch)) for batch in some.split(BATCH)]) for some in (held_out, images)
    )
    return (of_images - of_held_out.mean()) / of_held_out.std()


def halve(images: torch.Tensor) -> torch.Tensor:
    """Resize images to half their side."""
    return functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)


def lean(
    weights: Path,
    root: Path = Path("datasets/MVTecAD"),
    categories: tuple[str, ...] = ("pill", "screw"),
    steps: int = 1700,
    seed: int = 0,
) -> None:
    """Print image AUROC and AUPRO of full side, half side and both, GFLOP an image and seconds of training.

    Args:
        weights: EfficientNet-Lite0 as safetensors, its weights named as timm names them.
        root: Folder of the categories.
        categories: Folders in it, or paths of folders in MVTec AD's layout; masks may be missing.
        steps: Steps of 4 crops for each scale: 1,700 are 15 TFLOP.
        seed: Seed of the training.
    """
    network = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(load_file(weights))
    teacher = Teacher(network)
    console = Console(soft_wrap=True, highlight=False)
    for category in categories:
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        folder = root / category
        good = read(sorted((folder / "train" / "good").iterdir()))
        paths = [path for defect in sorted((folder / "test").iterdir()) for path in sorted(defect.iterdir())]
        labels = [path.parent.name != "good" for path in paths]
        masks = [mask_of(folder, path) for path in paths]
        images = read(paths)
        order = torch.randperm(len(good), generator=torch.Generator().manual_seed(0))
        held_out, training = good[order].split([max(10, len(good) // 10), len(good) - max(10, len(good) // 10)])
        found, gflop, start = {}, 0.0, time.process_time()
        for name, resize in (("full", nn.Identity()), ("half", halve)):
            scale = Scale(teacher, resize(training), steps, generator)
            gflop += count_operations(scale.errors, pad(resize(images[:1]))) / 1e9
            found[name] = maps(scale, resize(images), resize(held_out))
        found["both"] = found["full"] + upsample(found["half"], found["full"].shape[-1])
        for name, of_scale in found.items():
            smooth = gaussian_blur(upsample(of_scale, 80)[:, None], 7, 1.0)
            scores = smooth.flatten(1).topk(round(TOP * 80**2)).values.mean(dim=1)
            figures = f"image AUROC {roc_auc_score(labels, scores):.3f}, AUPRO {aupro(smooth, masks):.3f}"
            console.print(f"{folder.name}, {name}: {figures}")
        console.print(
            f"{folder.name}: {gflop:.1f} GFLOP an image, {time.process_time() - start:.0f} s of the processor"
        )


def upsample(values: torch.Tensor, side: int) -> torch.Tensor:
    """Interpolate maps ``(B, h, w)`` of every s-th pixel, exact where they are given."""
    stride = side // values.shape[-1]
    covered = stride * (values.shape[-1] - 1) + 1
    values = functional.interpolate(values[:, None], (covered, covered), mode="bilinear", align_corners=True)
    return functional.pad(values, (0, side - covered, 0, side - covered), mode="replicate")[:, 0]


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_function_arguments(lean, as_group=False)
    lean(**vars(parser.parse_args()))
