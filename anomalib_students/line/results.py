"""Tables of results, written row by row, and pictures of them."""

import csv
import io
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from anomalib_students.files import replace_file

from .inspection import Result
from .model import Prediction

__all__ = ["COLUMNS", "Heatmaps", "PictureWriter", "ResultTable", "overlay"]

BOX = ("x", "y", "width", "height", "area", "peak")
COLUMNS = ("path", "time", "score", "label", "percentile", "regions", *BOX, "milliseconds", "error")
Heatmaps = Literal["anomalous", "all", "none"]
OPACITY = 0.6
"""Largest opacity of the colour over an image."""


class ResultTable:
    """A file ``*.csv`` with the largest region of each image, or ``*.jsonl`` with all, that grows row by row.

    Each row is written at once. A row that a killed process or a full disk has cut off is removed.

    Args:
        path: File to write.
        resume: Whether to go on with the rows of an existing file.

    Attributes:
        done: Paths of the images that have a row.

    Raises:
        FileExistsError: If there is such a file, and it is not resumed.
        ValueError: If the name ends in neither ``.csv`` nor ``.jsonl``, or the file is another table.
        OSError: If the file cannot be written.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        if path.suffix not in {".csv", ".jsonl"}:
            msg = f"Results are written to a file named *.csv or *.jsonl, not to {path}."
            raise ValueError(msg)
        if path.exists() and not resume:
            msg = f"There are results in {path}: add --resume to go on with them, or name another --output."
            raise FileExistsError(msg)
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        self._end = content.rfind(b"\n") + 1
        self.done = self._names(content[: self._end].decode())
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.ftruncate(self._file, self._end)
        if not self._end and path.suffix == ".csv":
            self._append(_csv_row(COLUMNS))

    def write(self, result: Result) -> None:
        """Append the row of a result, or raise an ``OSError``, on a full disk for example; the rows before it stay."""
        row = _row(result)
        if self.path.suffix == ".csv":
            self._append(_csv_row([row[name] for name in COLUMNS]))
        else:
            kept = {name: row[name] for name in COLUMNS if name not in BOX}
            self._append(json.dumps({**kept, "regions": [region._asdict() for region in result.regions]}) + "\n")

    def __enter__(self) -> "ResultTable":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)

    def _append(self, row: str) -> None:
        content = row.encode()
        try:
            written = os.pwrite(self._file, content, self._end)
            # What a full disk had no place for is tried again, which raises the error.
            if written < len(content):
                os.pwrite(self._file, content[written:], self._end + written)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._end += len(content)

    def _names(self, content: str) -> set[str]:
        try:
            if self.path.suffix == ".jsonl":
                return {json.loads(line)["path"] for line in content.splitlines()}
            return {row["path"] for row in csv.DictReader(io.StringIO(content))}
        except (KeyError, TypeError, ValueError) as error:
            msg = f"{self.path} is not a table of results: name another --output."
            raise ValueError(msg) from error


class PictureWriter:
    """Save heat maps and masks of results, in the size of the image, in subfolders of a folder.

    Args:
        folder: Folder of the pictures; they are named like their images.
        heatmaps: Of which images to save heat maps.
        masks: Whether to save masks too, white where an image is anomalous.
    """

    def __init__(self, folder: Path, heatmaps: Heatmaps, masks: bool) -> None:
        self._folder = folder
        self._heatmaps = heatmaps
        self._masks = masks

    def __call__(self, result: Result, image: np.ndarray, prediction: Prediction) -> None:
        """Save the pictures of a result."""
        # Images of several folders may have the same name.
        name = Path(result.name)
        place = Path(*(folder for folder in name.parts if folder not in {name.anchor, "..", "."}))
        place = place.with_name(f"{place.name}.png")
        is_wanted = self._heatmaps == "all" or (self._heatmaps == "anomalous" and result.is_anomalous)
        if is_wanted and prediction.anomaly_map is not None:
            _save(overlay(image, prediction.anomaly_map, result), self._folder / "heatmaps" / place)
        if self._masks and prediction.mask is not None:
            mask = Image.fromarray(prediction.mask.astype(np.uint8) * 255)
            _save(mask.resize(image.shape[1::-1], Image.Resampling.NEAREST), self._folder / "masks" / place)


def overlay(image: np.ndarray, anomaly_map: np.ndarray, result: Result) -> Image.Image:
    """Paint scores over an image, from yellow at the threshold of 0.5 to red at 1, with boxes around the regions."""
    size = image.shape[1::-1]
    scores = np.asarray(Image.fromarray(anomaly_map.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    colour = np.stack([np.full_like(scores, 255), 255 * np.clip(2 - 2 * scores, 0, 1), np.zeros_like(scores)], axis=-1)
    strength = OPACITY * np.clip(2 * scores - 0.5, 0, 1)[..., None]
    picture = Image.fromarray((image + strength * (colour - image)).round().astype(np.uint8))
    for x, y, width, height, *_ in result.regions:
        box = (x, y, x + width - 1, y + height - 1)
        ImageDraw.Draw(picture).rectangle(box, outline=(255, 0, 0), width=max(1, max(size) // 300))
    return picture


def _save(picture: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    replace_file(path, content.getvalue())


def _row(result: Result) -> dict[str, Any]:
    has_score = result.score is not None
    row = {
        "path": result.name,
        "time": result.time.isoformat(timespec="milliseconds"),
        "score": result.score,
        "label": ("anomalous" if result.is_anomalous else "good") if has_score else None,
        "percentile": result.percentile,
        "regions": len(result.regions) if has_score else None,
        **(result.regions[0]._asdict() if result.regions else dict.fromkeys(BOX)),
        "milliseconds": result.milliseconds if has_score else None,
        "error": result.error,
    }
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}


def _csv_row(values: Any) -> str:  # noqa: ANN401
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
