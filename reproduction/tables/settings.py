"""Settings of the experiments. The options of the command line are made of the fields."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from anomalib_students.data.mvtec import check_limits
from anomalib_students.engine.precision import Precision
from anomalib_students.model.ensemble import TrainingMode
from anomalib_students.model.schedule import LearningRateSchedule
from anomalib_students.networks.patch_network import ARCHITECTURES, Architecture, check_architecture
from anomalib_students.runs.place import Place
from reproduction.baselines.methods import Method

__all__ = [
    "ExperimentSettings",
    "LossWeights",
    "MVTecMethod",
    "MVTecSettings",
    "OneClassData",
    "OneClassMethod",
    "OneClassSettings",
]

MVTecMethod = Literal["ours", Method, "ssim_autoencoder", "cnn_feature_dictionary"]
OneClassMethod = Literal["ours", Method]
OneClassData = Literal["mnist", "cifar10"]
LossWeights = tuple[float, float, float]
PatchSize = Literal[17, 33, 65]
DATA_SETS = Path("datasets")
"""Folder to which torchvision downloads."""

Settings = TypeVar("Settings", bound="ExperimentSettings")


@dataclass(frozen=True, kw_only=True)
class ExperimentSettings:
    """What both experiments share."""

    experiment: ClassVar[str]
    selection: ClassVar[tuple[str, ...]] = (
        "methods",
        "results",
        "name",
        "resume",
        "ray",
        "address",
        "cpus_per_cell",
        "gpus_per_cell",
    )
    """Settings that do not affect the result of a cell."""

    architecture: Architecture = "paper"
    """Networks of our method, and of the teacher of the methods that are fitted to its descriptors: paper, light for
    the cheapest, or medium."""
    n_students: int
    """Number M of students."""
    epochs: int | None
    """Epochs of our method."""
    lr: float = 1e-4
    """Learning rate of our method."""
    lr_schedule: LearningRateSchedule = "constant"
    """constant, as the paper, or cosine, which short trainings profit from."""
    precision: Precision = "32-true"
    """Arithmetic of the networks."""
    train_limit: int | None = None
    """Most images of a category, or of the normal class, to train on."""
    test_limit: int | None = None
    """Most images to test on; of classes, drawn in the proportions of normal and other ones."""
    source_checkpoint: Path | None = None
    """Weights of the ResNet-18 of the CNN feature dictionary, or that is distilled. By default timm downloads them."""
    source_layer: str | None = None
    """Layer of it whose pooled features are taken, say layer3. By default the last."""
    seed: int = 0
    """Seed of each training."""
    results: Path = Path("results/experiments")
    """Folder for the experiments."""
    name: str | None = None
    """Name of the experiment, a folder in it. By default mvtec, or that of the data set."""
    resume: bool = False
    """Resume the experiment of that name: cells that are done are skipped, trainings are resumed from their last epoch.
    Newly selected cells are added."""
    ray: bool | None = None
    """Train cells in parallel as tasks of Ray. By default if Ray is installed, and there is an address, or this machine
    has room for more than one cell."""
    address: str | None = None
    """Address of a Ray cluster, or auto; the results folder must be shared by its nodes."""
    cpus_per_cell: float = 1
    """CPU cores of each cell, with Ray."""
    gpus_per_cell: float | None = None
    """GPUs of each cell, with Ray; fractions share one. By default 1, if there are any."""

    @property
    def place(self) -> Place:
        """Where the cells run."""
        return Place(self.ray, self.address, self.cpus_per_cell, self.gpus_per_cell)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that decide on the results of cells as plain data."""
        values = {name: value for name, value in vars(self).items() if name not in self.selection}
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        return {"experiment": self.experiment, **plain}

    def absolute(self: Settings) -> Settings:
        """Return the settings with absolute paths, for other processes."""
        # The default folder is recognised by its relative path, so that torchvision downloads to it.
        paths = {name: path for name, path in vars(self).items() if isinstance(path, Path) and path != DATA_SETS}
        absolute: dict[str, Any] = {name: path.resolve() for name, path in paths.items()}
        return replace(self, **absolute)


@dataclass(frozen=True, kw_only=True)
class MVTecSettings(ExperimentSettings):
    """Settings of the experiment with MVTec AD. The defaults are the paper's, which are for a GPU.

    Raises:
        ValueError: If a number is out of range, or the architecture has no network for a patch size.
    """

    experiment: ClassVar[str] = "mvtec"
    selection: ClassVar[tuple[str, ...]] = (
        *ExperimentSettings.selection,
        "categories",
        "patch_sizes",
        "baseline_patch_size",
        "report",
    )

    root: Path = Path("datasets/MVTecAD")
    """Folder with a folder for each category, in the layout of MVTec AD."""
    categories: list[str] | None = None
    """Categories. By default those of MVTec AD that are in the folder."""
    methods: list[MVTecMethod] | None = None
    """Methods. By default all."""
    patch_sizes: list[PatchSize] | None = None
    """Receptive fields p of our method in pixels; several are joined to a multi-scale model too, without another
    training. By default those of the architecture: 17, 33 and 65, or 33 and 65."""
    baseline_patch_size: PatchSize | None = None
    """Receptive field of the methods that are fitted to the teacher's descriptors. By default the paper's 65, or, if
    our method is not trained with it, the largest of its own."""
    n_students: int = 3
    """Number M of students."""
    output_stride: Literal[1, 2, 4, 8] = 1
    """Distance in pixels between scored pixels, and between the descriptors of the baselines. The paper scores every
    pixel. The CNN feature dictionary uses at least 4."""
    training_mode: TrainingMode = "dense"
    """dense trains on every pixel in each step, as the paper; phase on a part of them, at a fraction of the cost."""
    teacher: str | dict[int, str] = "bundled"
    """Teachers: bundled, the path of a teacher file, or one for each patch size."""
    image_size: int = 256
    """Side in pixels to which images are zoomed."""
    epochs: int | None = None
    """Epochs of our method and of the SSIM autoencoder. By default their papers' 100 and 200. The other methods are
    fitted in one pass over the images."""
    baseline_samples: int | None = None
    """Descriptors that each baseline is fitted to. By default the paper's 50,000, and for the autoencoders all, at most
    a million."""
    report: bool = False
    """Write report.html for each model of our method, beside its checkpoint: its scores, curves and images. Cells that
    are already done get none."""

    def __post_init__(self) -> None:
        """Check the numbers and the patch sizes."""
        limits = {name: getattr(self, name) for name in ("epochs", "train_limit", "test_limit", "baseline_samples")}
        check_limits(**limits)
        for patch_size in (*self.scales, self.baseline_scale):
            check_architecture(self.architecture, patch_size)

    @property
    def scales(self) -> list[int]:
        """Receptive fields of our method."""
        return list(self.patch_sizes) if self.patch_sizes else sorted(ARCHITECTURES[self.architecture])

    @property
    def baseline_scale(self) -> int:
        """Receptive field of the methods that are fitted to descriptors."""
        return self.baseline_patch_size or (65 if 65 in self.scales else max(self.scales))

    def absolute(self) -> "MVTecSettings":
        """Return the settings with absolute paths, for other processes."""
        return replace(super().absolute(), teacher=_absolute(self.teacher))


@dataclass(frozen=True, kw_only=True)
class OneClassSettings(ExperimentSettings):
    """Settings of the experiment with MNIST or CIFAR-10, one class of which is the normal one.

    The defaults are the paper's, which are for a GPU. The paper does not say how students are trained in this
    experiment: the defaults are those for MVTec AD, with batches of 64.

    Raises:
        ValueError: If a number is out of range, the architecture has no network for the patch size, or there are loss
            weights but no images.
    """

    experiment: ClassVar[str] = "one-class"
    selection: ClassVar[tuple[str, ...]] = (*ExperimentSettings.selection, "classes", "loss_weights")

    data: OneClassData
    """Data set."""
    root: Path = DATA_SETS
    """Folder with the data set as torchvision keeps it. If it is the default, torchvision downloads it."""
    classes: list[int | str] | None = None
    """Normal classes, by name or number. By default all ten."""
    methods: list[OneClassMethod] | None = None
    """Methods. By default all."""
    patch_size: PatchSize = 33
    """Side p in pixels to which images are zoomed."""
    n_students: int = 5
    """Number M of students."""
    epochs: int = 100
    """Epochs of our method. The others are fitted in one pass over the images."""
    batch_size: int = 64
    """Images in a training step."""
    teacher_images: Path | None = None
    """Folder of photographs to pretrain teachers on, which our method uses beside the bundled one."""
    loss_weights: list[LossWeights] | None = None
    """Weights lambda_k, lambda_m and lambda_c of the loss of each of these teachers. By default the paper's four
    settings."""
    teacher_steps: int = 50_000
    """Steps of their pretraining."""
    teacher_lr: float = 2e-4
    """Learning rate of their pretraining."""
    cache_dir: Path | None = None
    """Folder to keep the images of the data set in as files. By default the user's cache folder."""

    def __post_init__(self) -> None:
        """Check the numbers, the patch size and the teachers."""
        if self.loss_weights and self.teacher_images is None:
            msg = "With loss_weights, name a folder of photographs to pretrain teachers on: --teacher_images."
            raise ValueError(msg)
        limits = {name: getattr(self, name) for name in ("epochs", "train_limit", "test_limit", "teacher_steps")}
        check_limits(**limits)
        check_architecture(self.architecture, self.patch_size)


def _absolute(teacher: str | Mapping[int, str]) -> Any:  # noqa: ANN401
    if isinstance(teacher, Mapping):
        return {size: _absolute(one) for size, one in teacher.items()}
    return teacher if teacher == "bundled" else str(Path(teacher).resolve())
