"""An inspection task that needs no download: machined parts that come with the package."""

from __future__ import annotations

from pathlib import Path

from anomalib.data.utils import ValSplitMode
from torchvision.transforms.v2 import Transform

from anomalib_students.data.mvtec import MVTec
from anomalib_students.data.sample_parts_cache import CATEGORY, VERSION, default_root, ensure_sample_parts


class SampleParts(MVTec):
    """Turned steel flanges under uneven light, with five types of defects and their exact masks.

    60 good images to train on, 20 good and 40 defective ones to test on (dents, faulty holes, fibres, scratches and
    stains, from hardly visible to obvious), RGB of 256x256 pixels. They are unpacked into a cache folder when they are
    first needed.

    Args:
        root: Folder to keep the images in; None for the user's cache folder.
        train_batch_size: Images per training step; the paper's is 1.
        eval_batch_size: Images per batch in validation, test and prediction.
        num_workers: Processes that load images; 0 for none but the main process, which is enough here.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations of all images that have none of their own.
        test_split_ratio: Fraction of the training images to test on, if there are no good test images.
        val_split_mode: Where the validation images come from.
        val_split_ratio: Fraction of the images to validate on, if the mode is a split.
        seed: Seed of the splits; the images are always the same.

    Example:
        >>> datamodule = SampleParts()
        >>> datamodule.name, datamodule.category
        ('SampleParts', 'part')
    """

    def __init__(
        self,
        root: Path | str | None = None,
        train_batch_size: int = 1,
        eval_batch_size: int = 8,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            # Pictures of another version are other pictures.
            root=(default_root() if root is None else Path(root)) / VERSION,
            category=CATEGORY,
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Unpack the images, unless they are there.

        Raises:
            OSError: If the folder can't be written.
        """
        ensure_sample_parts(self.root / self.category)

    def _setup(self, _stage: str | None = None) -> None:
        # Lightning calls prepare_data in one of several processes; who calls setup directly, in none.
        self.prepare_data()
        super()._setup(_stage)
