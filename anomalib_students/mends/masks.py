"""Masks that are missing or left over.

anomalib 2.7 pairs the sorted masks with the sorted defective images. If their numbers differ, its error is pandas's
``Must have equal len keys and value when setting with an iterable``; if their names differ, it names no file.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from inspect import signature
from pathlib import Path

from anomalib.data.errors import MisMatchError
from pandas import DataFrame
from torchvision.datasets.folder import IMG_EXTENSIONS

from .patching import wrap

__all__ = ["name_masks", "unpaired"]

LISTED = 5
"""Most files that an error names."""

Groups = Iterable[tuple[Path, Path]]
Folders = str | Path | Sequence[str | Path] | None


def name_masks() -> None:
    """Let the errors of anomalib's ``Folder`` and ``MVTecAD`` name the files."""
    otherwise = "its errors of masks that are missing or left over may name no file"
    for module, name, groups_of in (
        ("anomalib.data.datasets.image.folder", "make_folder_dataset", _groups_of_folder),
        ("anomalib.data.datasets.image.mvtecad", "make_mvtec_ad_dataset", _groups_of_mvtec),
    ):
        wrap(module, name, partial(_with_names, groups_of), otherwise)


def unpaired(images: Path, masks: Path) -> list[str]:
    """Describe the images of a folder that have no mask, and the masks that have no image, in a phrase each.

    Masks are named like their images: ``000.png``, ``000_mask.png`` or another name with the image's in it.
    """
    image_names, mask_names = _stems(images), _stems(masks)
    exact = {name for image in image_names for name in (image, f"{image}_mask") if name in mask_names}

    def belong(image: str, mask: str) -> bool:
        return mask in {image, f"{image}_mask"} if exact else image in mask

    without_mask = [name for name in image_names if not any(belong(name, mask) for mask in mask_names)]
    without_image = [name for name in mask_names if not any(belong(image, name) for image in image_names)]
    return [
        *(f"{image_names[name]} has no mask in {masks}" for name in without_mask),
        *(f"the mask {mask_names[name]} has no image in {images}" for name in without_image),
    ]


def _stems(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*")) if path.suffix.lower() in IMG_EXTENSIONS}


def _groups_of_mvtec(root: Path, **_: object) -> Groups:
    """Pair the folders of defects in MVTec AD's layout."""
    root = Path(root)
    parts = (path.name for part in ("test", "ground_truth") for path in (root / part).glob("*") if path.is_dir())
    return [(root / "test" / name, root / "ground_truth" / name) for name in sorted({*parts} - {"good"})]


def _groups_of_folder(
    root: Path | None = None,
    abnormal_dir: Folders = None,
    mask_dir: Folders = None,
    **_: object,
) -> Groups:
    """Pair the folders of defective images and masks in the order in which they are given."""
    images, masks = (
        [Path(root or "", path) for path in ([given] if isinstance(given, str | Path) else given or ())]
        for given in (abnormal_dir, mask_dir)
    )
    return list(zip(images, masks, strict=False))


def _with_names(
    groups_of: Callable[..., Groups], make: Callable[..., DataFrame], _: None, args: tuple, kwargs: dict
) -> DataFrame:
    """Make the table of a data set, or raise an error that names the masks and images that do not match."""
    try:
        return make(*args, **kwargs)
    except (MisMatchError, ValueError) as error:
        groups = groups_of(**signature(make).bind(*args, **kwargs).arguments)
        found = [sentence for images, masks in groups for sentence in unpaired(images, masks)]
        if not found:
            raise
        more = f" (and {len(found) - LISTED} more)" if len(found) > LISTED else ""
        msg = f"Images and masks do not go together: {'; '.join(found[:LISTED])}{more}."
        raise ValueError(msg) from error
