"""Which images of a folder are good, which have which kind of defect, and which are masks."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from anomalib.data.utils import LabelName
from pandas import DataFrame

from anomalib_students.image_files import IMAGES, list_images

GOOD = ("good", "ok", "normal")  # In lower case, as all names below.
BAD = ("abnormal", "anomalous", "anomaly", "bad", "defect", "defective", "defects", "faulty", "ng", "nok")
MASKS = ("ground_truth", "groundtruth", "gt", "mask", "masks")
SPLITS = ("train", "test")
MASK_ENDING = re.compile(r"[-_. ]?(mask|gt|ground_truth|label)$", re.IGNORECASE)
LISTED = 5  # Most files that a message names.

Folders = tuple[str, ...]


def find_images(root: Path) -> tuple[dict[Path, Folders], dict[Path, Folders]]:
    """Find images and masks in a folder and all folders below it, each with its folders; hidden files are skipped."""
    if root.is_file():
        return {root: ()}, {}
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root.resolve()}: name the folder of your images by --data.root.")
    found = {path: path.relative_to(root).parts[:-1] for path in list_images(root)}
    stems = {(path.parent, path.stem) for path in found}
    masks = {
        path: folders
        for path, folders in found.items()
        if _has(folders, MASKS) or (path.stem.endswith("_mask") and (path.parent, path.stem[:-5]) in stems)
    }
    if len(masks) == len(found):
        raise FileNotFoundError(f"There is no image in {root.resolve()}; images are files such as {', '.join(IMAGES)}.")
    return {path: folders for path, folders in found.items() if path not in masks}, masks


def list_parts(root: Path, good: str | None = None) -> DataFrame:
    """List good images, images with defects and masks; images beside the folders of kinds have the label -1."""
    images, masks = find_images(root)
    samples = _label(root, images, GOOD if good is None else (good.lower(),))
    _add_masks(samples, images, masks)
    return samples


def _has(folders: Folders, names: Iterable[str]) -> bool:
    return any(folder.lower() in names for folder in folders)


def _before(folders: Folders, names: Iterable[str]) -> Folders:
    """Folders that hold the first one of the names."""
    return folders[: next(index for index, folder in enumerate(folders) if folder.lower() in names)]


def _label(root: Path, images: Mapping[Path, Folders], names: tuple[str, ...]) -> DataFrame:
    """Label images by their folders."""
    tasks = {_before(folders, ("train",)) for folders in images.values() if _has(folders, ("train",))}
    if len(tasks) > 1:
        choice = ", ".join(sorted(str(root.joinpath(*task)) for task in tasks))
        raise ValueError(f"There are several tasks in {root.resolve()}: name one of them by --data.root ({choice}).")
    training = [folders for folders in images.values() if not _has(folders, ("test",))]
    has_good = any(_has(folders, names) for folders in training)
    suspicious = sorted({folder for folders in training for folder in folders if folder.lower() in BAD})
    if suspicious and not has_good:
        problem = f"There is a folder {suspicious[0]!r} in {root.resolve()}, but none of good parts"
        raise ValueError(f"{problem}: call it 'good', or name it by --data.good.")
    # Folders that hold those of the kinds.
    before_good = {_before(folders, names) for folders in images.values() if _has(folders, names)}
    holders = {(), *map(_without_splits, before_good), *tasks}
    rows = []
    for path, folders in images.items():
        split = "test" if _has(folders, ("test",)) else "train"
        kind = _without_splits(folders)
        if _has(folders, names) or (split == "train" and not has_good):
            label, index = "good", LabelName.NORMAL
        elif any(holder[: len(kind)] == kind for holder in holders):
            label, index = "", LabelName.UNKNOWN
        else:
            held_by = max((holder for holder in holders if kind[: len(holder)] == holder), key=len)
            label, index, split = "/".join(kind[len(held_by) :]), LabelName.ABNORMAL, "test"
        rows.append((str(path), label, int(index), "", split))
    return DataFrame(rows, columns=["image_path", "label", "label_index", "mask_path", "split"])


def _without_splits(folders: Folders) -> Folders:
    return tuple(folder for folder in folders if folder.lower() not in SPLITS)


def _add_masks(samples: DataFrame, images: Mapping[Path, Folders], masks: Mapping[Path, Folders]) -> None:
    """Give each image with a defect its mask, which has its name and lies in folders of the same names."""
    by_name: dict[str, list[tuple[frozenset[str], Path]]] = defaultdict(list)
    for path, folders in masks.items():
        kind = frozenset(folder for folder in folders if folder.lower() not in (*MASKS, *SPLITS))
        for name in {path.stem, MASK_ENDING.sub("", path.stem)}:
            by_name[name].append((kind, path))
    owners: dict[Path, list[Path]] = defaultdict(list)
    for path, folders in images.items():
        fitting = [(len(kind), mask) for kind, mask in by_name[path.stem] if kind <= set(folders)]
        if fitting:
            owners[max(fitting)[1]].append(path)
    is_defective = samples["label_index"] == LabelName.ABNORMAL
    defective = samples["image_path"][is_defective]
    mask_of = {str(path): str(mask) for mask, paths in owners.items() for path in paths}
    samples.loc[is_defective, "mask_path"] = defective.map(lambda path: mask_of.get(path, ""))
    problems = [f"the mask {mask} fits no image" for mask in masks if mask not in owners]
    for mask, paths in owners.items():
        shared = [path for path in map(str, paths) if path in set(defective)]
        if len(shared) > 1:
            problems.append(f"the mask {mask} fits both {shared[0]} and {shared[1]}")
    if masks:
        problems += [f"{path} has no mask" for path in defective if path not in mask_of]
    if problems:
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise ValueError(f"Images and masks do not go together: {'; '.join(problems[:LISTED])}{more}.")
