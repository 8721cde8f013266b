"""Tables of results, written row by row, and pictures of them."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from anomalib_students.files import replace_file

from .inspection import Region, Result
from .model import Prediction

BOX = Region._fields
COLUMNS = ("path", "time", "score", "label", "percentile", "regions", *BOX, "milliseconds", "drift", "error")
RED = (255, 0, 0)
OPACITY = 0.6  # Largest opacity of the colour over an image.


class ResultTable:
    """A file ``*.csv`` with the largest region of each image, or ``*.jsonl`` with all, that grows row by row.

    A row that a killed process has cut off is removed. ``done`` has the paths of the images that have a row.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        if path.suffix not in {".csv", ".jsonl"}:
            raise ValueError(f"Results are written to a file named *.csv or *.jsonl, not to {path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        if content and not resume:
            raise FileExistsError(f"There are results in {path}: add --resume to go on, or name another --output.")
        whole = content[: content.rfind(b"\n") + 1]
        self._path, self._is_csv, self._end = path, path.suffix == ".csv", len(whole)
        try:
            lines = io.StringIO(whole.decode())
            rows: Iterable[dict[str, Any]] = csv.DictReader(lines) if self._is_csv else map(json.loads, lines)
            self.done = {row["path"] for row in rows}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a table of results: name another --output.") from error

    def write(self, result: Result) -> None:
        """Append the row of a result, or raise an ``OSError``, on a full disk for example; the rows before it stay."""
        label = "anomalous" if result.is_anomalous else "good"
        known = [result.score, label, result.percentile, len(result.regions)] if result.error is None else [None] * 4
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
            print(json.dumps({**named, "regions": [region._asdict() for region in result.regions]}), file=text)
        left = text.getvalue().encode()
        with self._path.open("ab", buffering=0) as file:
            file.truncate(self._end)  # A row that was cut off.
            try:
                # What a full disk had no place for is tried again, which raises the error.
                while left:
                    left = left[file.write(left) :]
            except OSError as error:
                file.truncate(self._end)
                raise OSError(error.errno, error.strerror, str(self._path)) from error
            self._end = file.tell()


def save_pictures(folder: Path, which: str, masks: bool, result: Result, image: np.ndarray, found: Prediction) -> None:
    """Save a heat map and, if ``masks``, the mask of a result in the size of its image, white where it is anomalous."""
    # Images of several folders may have the same name.
    name = Path(f"{result.name}.png")
    place = Path(*(part for part in name.parts if part not in {name.anchor, "..", "."}))
    pictures = {}
    if found.anomaly_map is not None and (which == "all" or (which == "anomalous" and result.is_anomalous)):
        # The redder the higher the scores, with boxes around the regions.
        strength = OPACITY * np.clip(2 * found.anomaly_map.astype(np.float32) - 0.5, 0, 1)
        strength = cv2.resize(strength, image.shape[1::-1])[..., None]
        pictures["heatmaps"] = (image * (1 - strength) + strength * RED).astype(np.uint8)
        for box in result.regions:
            cv2.rectangle(pictures["heatmaps"], box[:4], RED, max(1, max(image.shape) // 300))
    if masks and found.mask is not None:
        mask = found.mask.astype(np.uint8) * 255
        pictures["masks"] = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    for kind, picture in pictures.items():
        Image.fromarray(picture).save(content := io.BytesIO(), format="PNG")
        replace_file(folder / kind / place, content.getvalue())
