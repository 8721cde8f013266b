"""Inspect images one after the other: decoding, network and what is made of it overlap."""

import os
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import exp
from pathlib import Path
from threading import Event, Semaphore, Thread
from typing import Any, NamedTuple

import cv2
import numpy as np

from .drift import Drift, DriftMonitor, image_statistics
from .model import LineModel, Prediction
from .sources import Item, decode

WAIT = 0.2  # Seconds after which a request to stop is noticed, if no image comes.


class Region(NamedTuple):
    """A connected anomalous region: the box around it in pixels of the image, its area, and its largest score."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


@dataclass(frozen=True)
class Result:
    """What was found on an image; without a score if there is an error."""

    name: str  # Path of the image, or its number in what was given.
    time: datetime
    score: float | None = None  # In [0, 1]; above 0.5 it is anomalous.
    is_anomalous: bool = False
    percentile: float | None = None  # Percentage of good images that score lower, if the model says.
    regions: tuple[Region, ...] = ()  # In pixels of the image, the largest first.
    milliseconds: float = 0.0  # For decoding, network and regions.
    error: str | None = None
    statistics: Mapping[str, float] = field(default_factory=dict)  # By which drift is noticed.
    drifts: tuple[Drift, ...] = ()  # What has left the range of good images.


def inspect(
    model: LineModel | str | Path,
    images: Iterable[Item | str | Path | np.ndarray],
    save: Callable[[Result, np.ndarray, Prediction], None] | None = None,
    stop: Event | None = None,
    monitor: DriftMonitor | None = None,
) -> Iterator[Result]:
    """Inspect images, in their order.

    Args:
        model: A model, or the file of one that anomalib has exported to OpenVINO or ONNX.
        images: Paths, or RGB arrays of shape ``(H, W, 3)`` and type uint8; may be endless, as a camera's.
        save: Called in a worker with each result, its image and what the model returned, to save pictures.
        stop: Ends the inspection after the images at hand when it is set.
        monitor: Notices drift; by default a new one, with the statistics that the model carries.

    Yields:
        A result for each image, as soon as it and all before it are there; one with an error if it cannot be scored.
    """
    model = model if isinstance(model, LineModel) else LineModel(model)
    stop, monitor = stop or Event(), monitor or DriftMonitor(model.good.get("statistics", {}))
    # The network computes no more images at a time than there are processors: one more decodes.
    n_workers = 1 + (os.cpu_count() or 1)
    slots, futures = Semaphore(2 * n_workers), queue.SimpleQueue[Any]()

    def feed() -> None:
        try:
            for number, image in enumerate(images):
                slots.acquire()
                if stop.is_set():
                    break
                item = Item(str(number), image) if isinstance(image, np.ndarray) else image
                futures.put(executor.submit(_inspect, model, item if isinstance(item, Item) else Item(str(item)), save))
            futures.put(None)
        except BaseException as error:  # noqa: BLE001  # raised where the results are taken
            futures.put(error)

    with ThreadPoolExecutor(n_workers) as executor:
        # A camera may never give another frame: nothing waits for this thread.
        Thread(target=feed, daemon=True).start()
        try:
            while not (stop.is_set() and futures.empty()):
                try:
                    future = futures.get(timeout=WAIT)
                except queue.Empty:
                    continue
                if future is None:
                    return
                if isinstance(future, BaseException):
                    raise future
                result = future.result()
                slots.release()
                yield replace(result, drifts=monitor.update(result.statistics))
        finally:
            stop.set()
            slots.release()


def find_regions(mask: np.ndarray, scores: np.ndarray, size: tuple[int, ...]) -> list[Region]:
    """Find the connected regions of a mask, diagonal neighbours included, in an image of a size, the largest first."""
    n_labels, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    peaks, inside = np.zeros(n_labels, scores.dtype), labels > 0
    np.maximum.at(peaks, labels[inside].astype(int), scores[inside])
    down, across = size[0] / mask.shape[0], size[1] / mask.shape[1]
    regions = []
    for (x, y, width, height, area), peak in zip(boxes[1:].tolist(), peaks[1:].tolist(), strict=True):
        left, top, right, bottom = map(round, (x * across, y * down, (x + width) * across, (y + height) * down))
        regions.append(Region(left, top, right - left, bottom - top, round(area * down * across), peak))
    return sorted(regions, key=lambda region: region.area, reverse=True)


def percentile(score: float, margin: float) -> float:
    """Percentage of good images that score lower, by Gumbel's distribution with its mode at a score of 0.25."""
    centred = 2 * score - 1
    return 100 * exp(-exp(min(-margin * (1 + centred / max(1 - abs(centred), 1e-9)), 700.0)))


def _inspect(model: LineModel, item: Item, save: Callable | None) -> Result:
    start, now = time.perf_counter(), datetime.now().astimezone()
    try:
        image = decode(item)
        prediction = model.predict(image)
    except (OSError, RuntimeError, ValueError) as error:
        return Result(item.name, now, error=" ".join(str(error).split()))
    score, is_anomalous, scores, mask = prediction
    of_good = percentile(score, model.good["margin"]) if model.good else None
    regions = find_regions(mask, scores, image.shape) if scores is not None and mask is not None and mask.any() else []
    statistics = image_statistics(image) if "statistics" in model.good else {}
    # Of the scores, only those of images that are called good show drift.
    statistics |= {} if is_anomalous else {"score": score}
    milliseconds = 1000 * (time.perf_counter() - start)
    result = Result(item.name, now, score, is_anomalous, of_good, tuple(regions), milliseconds, statistics=statistics)
    if save is not None:
        save(result, image, prediction)
    return result
