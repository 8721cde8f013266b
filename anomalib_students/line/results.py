"""Tables of results, written row by row, and pictures of them."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from anomalib_students.files import replace_file

from .inspection import Result
from .model import Prediction

__all__ = ["COLUMNS", "ResultTable", "overlay", "save_pictures"]

BOX = ("x", "y", "width", "height", "area", "peak")
COLUMNS = ("path", "time", "score", "label", "percentile", "regions", *BOX, "milliseconds", "drift", "error")
OPACITY = 0.6  # Largest opacity of the colour over an image.


class ResultTable:
    """A file ``*.csv`` with the largest region of each image, or ``*.jsonl`` with all, that grows row by row.

    Each row is written at once. A row that a killed process or a full disk has cut off is removed. ``done`` has the
    paths of the images that have a row. Another file is refused, as is an existing one that is not resumed.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        if path.suffix not in {".csv", ".jsonl"}:
            raise ValueError(f"Results are written to a file named *.csv or *.jsonl, not to {path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        if content and not resume:
            msg = f"There are results in {path}: add --resume to go on with them, or name another --output."
            raise FileExistsError(msg)
        self._is_csv = path.suffix == ".csv"
        whole = content[: content.rfind(b"\n") + 1]
        lines = io.StringIO(whole.decode())
        try:
            rows: Iterable[dict[str, Any]] = csv.DictReader(lines) if self._is_csv else map(json.loads, lines)
            self.done = {row["path"] for row in rows}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a table of results: name another --output.") from error
        self._path, self._end = path, len(whole)

    def write(self, result: Result) -> None:
        """Append the row of a result, or raise an ``OSError``, on a full disk for example; the rows before it stay."""
        known: list[Any] = [None] * 4
        if result.score is not None:
            label = "anomalous" if result.is_anomalous else "good"
            known = [result.score, label, result.percentile, len(result.regions)]
        box = result.regions[0] if result.regions else [None] * len(BOX)
        drift = "; ".join(drift.name for drift in result.drifts)
        now, milliseconds = result.time.isoformat(timespec="milliseconds"), result.milliseconds or None
        values = [result.name, now, *known, *box, milliseconds, drift, result.error]
        row = [round(value, 6) if isinstance(value, float) else value for value in values]
        text = io.StringIO()
        if self._is_csv:
            csv.writer(text, lineterminator="\n").writerows([row] if self._end else [COLUMNS, row])
        else:
            named = {name: value for name, value in zip(COLUMNS, row, strict=True) if name not in BOX}
            named["regions"] = [region._asdict() for region in result.regions]
            print(json.dumps(named), file=text)
        left = text.getvalue().encode()
        with self._path.open("ab", buffering=0) as file:
            # A row that was cut off.
            file.truncate(self._end)
            try:
                # What a full disk had no place for is tried again, which raises the error.
                while left:
                    left = left[file.write(left) :]
            except OSError as error:
                file.truncate(self._end)
                raise OSError(error.errno, error.strerror, str(self._path)) from error
            self._end = file.tell()


def save_pictures(
    folder: Path, heatmaps: str, masks: bool, result: Result, image: np.ndarray, prediction: Prediction
) -> None:
    """Save a heat map and, if ``masks``, the mask of a result in the size of its image, white where it is anomalous."""
    # Images of several folders may have the same name.
    name = Path(f"{result.name}.png")
    place = Path(*(part for part in name.parts if part not in {name.anchor, "..", "."}))
    pictures = {}
    if prediction.anomaly_map is not None and (heatmaps == "all" or (heatmaps == "anomalous" and result.is_anomalous)):
        pictures["heatmaps"] = overlay(image, prediction.anomaly_map, result)
    if masks and prediction.mask is not None:
        mask = Image.fromarray(prediction.mask.astype(np.uint8) * 255)
        pictures["masks"] = mask.resize(image.shape[1::-1], Image.Resampling.NEAREST)
    for kind, picture in pictures.items():
        picture.save(content := io.BytesIO(), format="PNG")
        replace_file(folder / kind / place, content.getvalue())


def overlay(image: np.ndarray, anomaly_map: np.ndarray, result: Result) -> Image.Image:
    """Paint scores over an image, the redder the higher, with boxes around the regions."""
    size, red = image.shape[1::-1], (255, 0, 0)
    strength = Image.fromarray((255 * OPACITY * np.clip(2 * anomaly_map - 0.5, 0, 1)).astype(np.uint8))
    picture = Image.composite(
        Image.new("RGB", size, red), Image.fromarray(image), strength.resize(size, Image.Resampling.BILINEAR)
    )
    for x, y, width, height, *_ in result.regions:
        box = (x, y, x + width - 1, y + height - 1)
        ImageDraw.Draw(picture).rectangle(box, outline=red, width=max(1, max(size) // 300))
    return picture
